"""Snapshots are analysed without drgn and Linux, and a command imports no more than it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from estimator.snapshot.store import write_snapshot
from tests.systems import fork_server

WITHOUT = "import sys; sys.modules['drgn'] = None; sys.modules['_drgn'] = None; "


@pytest.mark.parametrize("command", ["predict", "report", "advise"])
def test_answers_need_no_drgn(command: str, tmp_path: Path) -> None:
    write_snapshot(fork_server(), tmp_path / "a.ksm")
    code = (
        f"{WITHOUT} sys.argv[1:] = [{command!r}, 'a.ksm']; from estimator.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "KSM would free" in done.stdout or "pages" in done.stdout


WITHOUT_LINUX = """
import os, select, signal, socket, sys
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
linux = {
    os: "sched_getaffinity sched_setaffinity memfd_create preadv pwritev process_vm_readv getrandom"
    " posix_fadvise posix_fallocate copy_file_range sendfile splice eventfd pidfd_open fork"
    " getxattr setxattr listxattr sched_setscheduler nice setpriority getpriority fdatasync",
    signal: "SIGHUP SIGSTKFLT SIGPWR pidfd_send_signal",
    select: "epoll",
    socket: "AF_NETLINK AF_PACKET SOCK_CLOEXEC",
}
for module, names in linux.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""


@pytest.mark.parametrize("command", ["predict", "report", "report --html a.html", "advise"])
def test_answers_need_no_linux(command: str, tmp_path: Path) -> None:
    write_snapshot(fork_server(), tmp_path / "a.ksm")
    arguments = [*command.split(), "a.ksm"]
    code = f"{WITHOUT}{WITHOUT_LINUX}sys.argv[1:] = {arguments}\n"
    code += "from estimator.cli import entry; entry()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "KSM would free" in done.stdout or "pages" in done.stdout or "wrote" in done.stderr


def test_a_snapshot_is_written_and_read_without_linux(tmp_path: Path) -> None:
    write_snapshot(fork_server(), tmp_path / "a.ksm")
    code = (
        f"{WITHOUT}{WITHOUT_LINUX}from pathlib import Path\n"
        "from estimator import open_snapshot, predict, make_plan\n"
        "from estimator.snapshot.store import write_snapshot\n"
        "write_snapshot(open_snapshot('a.ksm'), Path('b.ksm'))\n"
        "make_plan(open_snapshot('b.ksm')); print(predict(open_snapshot('b.ksm')).counters)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pages_sharing" in done.stdout


@pytest.mark.parametrize("module", ["estimator", "estimator.cli", "estimator.kernel.collect"])
def test_no_drgn_before_it_is_needed(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"{WITHOUT} import {module}"], check=True)

"""Thread groups that share an mm (CLONE_VM, vfork), as --procfs finds them: kcmp(2) says it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.procfs import collect as module
from estimator.procfs import processes
from estimator.procfs.processes import Process
from tests.test_procfs import at_base, collect, digest, needs_pfns, on_command, only, wait_until

pytestmark = pytest.mark.skipif(
    not processes.can_compare(os.getpid()), reason="kcmp(2) is not to be had here"
)
CLONE_VM = f"""
stack = libc.mmap(None, 65536, 3, {0x22}, -1, 0)
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
child = libc.clone(pause, ctypes.c_void_p(stack + 65536), {0x100 | signal.SIGCHLD}, None)
assert child > 0
"""
VFORK = f"""
import threading
def other():
    if libc.syscall(56, {0x4100 | signal.SIGCHLD}, 0, 0, 0, 0) == 0:
        while True: libc.pause()
threading.Thread(target=other, daemon=True).start()
"""


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


@needs_pfns
@pytest.mark.parametrize("way", [CLONE_VM, VFORK], ids=["CLONE_VM", "vfork"])
def test_an_mm_is_one_under_each_of_its_pids(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_command(30, "fork") as ((parent, fork), execute):
        execute(f"exec({way!r}, globals())")
        wait_until(lambda: len(children_of(parent)) == 2)
        (sharing,) = set(children_of(parent)) - {fork}
        try:
            only([parent, fork, sharing], monkeypatch)
            snapshot = collect()
        finally:
            os.kill(sharing, signal.SIGKILL)
    rows = snapshot.processes.set_index("pid")["sharing_pids"]
    assert {pid: list(pids) for pid, pids in rows.items()} == {parent: [sharing], fork: []}
    assert len(at_base(snapshot, parent)) == 30
    by_pid = [predict(snapshot, Policy(pids=(pid,))).counters for pid in (parent, sharing)]
    assert by_pid[0] == by_pid[1]
    assert by_pid[0]["ksm_rmap_items"] >= 30
    assert snapshot.info["not_known"].get("processes.sharing_pids") is None


WITHOUT_LEADER = """
import ctypes, mmap, os, threading, time
area = mmap.mmap(-1, 20 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(20):
    area[page * 4096:(page + 1) * 4096] = bytes([page + 100]) * 4096
leader = f"/proc/self/task/{os.getpid()}/stat"
def stay():
    while open(leader).read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    print(flush=True)
    time.sleep(1000)
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall(60, 0)  # exit() of this thread alone
"""


@needs_pfns
def test_a_process_whose_first_thread_has_ended_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_LEADER], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            wait_until(lambda: ") Z " in Path(f"/proc/{process.pid}/stat").read_text())
            found = processes.read_processes()[0]
            monkeypatch.setattr(
                module,
                "read_processes",
                lambda: ([p for p in found if p.leader == process.pid], 0),
            )
            snapshot = collect()
        finally:
            process.kill()
    assert snapshot.processes["pid"].tolist() == [process.pid]
    assert {digest(page + 100) for page in range(20)} <= set(snapshot.frames["hash"])
    assert snapshot.processes["cmdline"].iloc[0].startswith(sys.executable)


def test_a_process_that_ends_does_not_hide_who_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    mms = {7: 2, 8: 1, 9: 2, 11: 2, 12: 1}  # 10 has ended

    def kcmp(first: int, second: int) -> int:
        if not {first, second} <= set(mms):
            raise OSError(errno.ESRCH, "kcmp")
        return (mms[first] != mms[second]) + (mms[first] > mms[second])

    monkeypatch.setattr(processes, "_kcmp", kcmp)
    stat = ["0"] * 50
    found = processes._one_per_mm([Process(pid, "x", stat) for pid in range(7, 13)])
    assert {p.pid: p.sharing_pids for p in found} == {7: [9, 11], 8: [12], 10: []}


@needs_pfns
def test_without_kcmp_it_is_said_that_sharing_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.ENOSYS, "kcmp")

    monkeypatch.setattr(processes, "_kcmp", refuse)
    with on_command(3, "fork") as (pids, _):
        only(pids, monkeypatch)
        snapshot = module.collect_procfs(progress=lambda *_: None, pace=lambda _: None)
    assert sorted(snapshot.processes["pid"]) == sorted(pids)
    assert "kcmp(2) is not to be had" in snapshot.info["not_known"]["processes.sharing_pids"]

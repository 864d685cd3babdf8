"""What --procfs says where it is not given all of a machine: tried in namespaces and cgroups."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from estimator.collect import memory_room, namespaces
from estimator.errors import CannotAnswerError, TargetError
from estimator.ksm.predict import predict
from estimator.procfs import check, pagemap, processes, rights, vmas
from estimator.procfs.processes import Process
from tests.synthetic import System, small
from tests.test_procfs import REPOSITORY, needs_pfns

ESTIMATOR = f"{sys.executable} -m estimator"
CGROUPS = Path("/sys/fs/cgroup")


def tried(*prefix: str) -> bool:
    """Whether a command can be run behind ``prefix`` here."""
    return (
        shutil.which(prefix[0]) is not None
        and not subprocess.run([*prefix, "true"], capture_output=True).returncode
    )


needs_namespaces = pytest.mark.skipif(
    not tried("unshare", "--mount", "--pid", "--fork", "--mount-proc"),
    reason="no namespaces can be made here",
)


def shell(script: str, *prefix: str) -> tuple[int, str]:
    """Exit status and both outputs of a script that is run behind ``prefix``."""
    found = subprocess.run(
        [*prefix, "sh", "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )
    return found.returncode, found.stdout + found.stderr


@needs_pfns
def test_pages_of_another_size_and_other_machines_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for page_bytes, machine in ((65536, "ppc64le"), (4096, "riscv64"), (16384, "x86_64")):
        monkeypatch.setattr(rights, "PAGE_BYTES", page_bytes)
        monkeypatch.setattr("platform.machine", lambda name=machine: name)
        with pytest.raises(CannotAnswerError, match=f"{machine} with pages of {page_bytes} bytes"):
            rights.require_rights()
        assert check.check_procfs().exit_code == 5


@needs_pfns
def test_pfns_that_are_all_zero_are_not_pfns(monkeypatch: pytest.MonkeyPatch) -> None:
    with pagemap.own_page() as pfn:
        assert pfn > 0
    original = os.pread
    hidden = 1 << 63  # present, and the PFN is 0
    monkeypatch.setattr(
        "os.pread",
        lambda *place: (int.from_bytes(original(*place), "little") & hidden).to_bytes(8, "little"),
    )
    with pytest.raises(TargetError, match="PFNs are hidden, for all"):
        rights.require_rights()


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ([19], "no CAP_SYS_PTRACE,.*--cap-add SYS_PTRACE"),
        ([21], "no CAP_SYS_ADMIN,.*--cap-add SYS_ADMIN"),
        ([19, 21], "no CAP_SYS_ADMIN and no CAP_SYS_PTRACE,.*SYS_ADMIN --cap-add SYS_PTRACE"),
    ],
)
def test_a_missing_capability_is_named(
    lacking: list[int], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for part in (rights, processes):
        monkeypatch.setattr(part, "PROC", tmp_path)
    for name in ("kpageflags", "kpagecount"):
        (tmp_path / name).touch()
    (tmp_path / str(os.getpid())).mkdir()
    (tmp_path / "self").symlink_to(str(os.getpid()))
    all_but = (1 << 41) - 1 - sum(1 << bit for bit in lacking)
    (tmp_path / "self" / "status").write_text(f"Name:\tx\nCapEff:\t{all_but:016x}\n")
    with pytest.raises(TargetError, match=named):
        rights.require_rights()


MOUNT = ("unshare", "--mount")
PROC_MOUNT = ("unshare", "--mount", "--pid", "--fork")
REFUSED = {
    "no CAP_SYS_ADMIN": (("setpriv", "--bounding-set=-sys_admin"), "", "no CAP_SYS_ADMIN, like"),
    "no CAP_SYS_PTRACE": (("setpriv", "--bounding-set=-sys_ptrace"), "", "no CAP_SYS_PTRACE, like"),
    "user namespace": (("unshare", "--user", "--map-root-user"), "", "this is a user namespace"),
    "another /proc": (("unshare", "--pid", "--fork"), "", "another pid namespace than"),
    "subset=pid": (PROC_MOUNT, "mount -t proc -o subset=pid proc /proc", "subset=pid"),
    "masked file": (MOUNT, "mount --bind /dev/null /proc/kpageflags", "kpageflags is masked"),
    "no sysfs": (MOUNT, "umount -l /sys", "sysfs is not mounted"),
    "hidepid": (
        ("unshare", "--mount", "setpriv", "--bounding-set=-sys_ptrace"),
        "mount -o remount,hidepid=2 /proc",
        "no CAP_SYS_PTRACE",
    ),
}


@needs_pfns
@needs_namespaces
@pytest.mark.parametrize("case", REFUSED)
def test_check_names_what_is_hidden(case: str) -> None:
    prefix, setup, named = REFUSED[case]
    if not tried(*prefix):
        pytest.skip(f"{prefix[0]} is not allowed here")
    status, text = shell(f"{setup or 'true'} && {ESTIMATOR} check --procfs", *prefix)
    assert (status, "Traceback" in text) == (3, False), text
    assert named in text
    assert text.count("fail ") == 1


@needs_pfns
@pytest.mark.parametrize("case", ["no CAP_SYS_ADMIN", "no CAP_SYS_PTRACE", "user namespace"])
def test_nothing_is_answered_from_what_is_hidden(case: str, tmp_path: Path) -> None:
    prefix, _, named = REFUSED[case]
    if not tried(*prefix):
        pytest.skip(f"{prefix[0]} is not allowed here")
    status, text = shell(f"{ESTIMATOR} run --procfs --json -o {tmp_path}/x.ksm", *prefix)
    assert status == 3, text
    assert named in text
    assert len(text.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@needs_pfns
@needs_namespaces
def test_root_sees_all_with_hidepid() -> None:
    setup = "mount -o remount,hidepid=2 /proc"
    status, text = shell(f"{setup} && {ESTIMATOR} check --procfs --json", *MOUNT)
    assert status == 0, text
    subjects = [finding["subject"] for finding in json.loads(text)["findings"]]
    assert "container" not in subjects


@needs_pfns
@needs_namespaces
def test_a_pid_namespace_is_said_to_be_a_part_of_the_host(tmp_path: Path) -> None:
    prefix = ("unshare", "--pid", "--fork", "--mount-proc")
    alone = shell(f"exec {ESTIMATOR} check --procfs --json", *prefix)
    assert alone[0] == 5
    status, text = shell(
        f"sleep 300 & {ESTIMATOR} check --procfs --json && "
        f"{ESTIMATOR} run --procfs --json -o {tmp_path}/x.ksm",
        *prefix,
    )
    assert status == 0, text
    checked, predicted = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    found = {finding["subject"]: finding for finding in checked["findings"]}
    assert found["container"]["status"] == "warn"
    facts = found["container"]["facts"]
    assert 2 <= facts["threads"] < 20
    assert facts["threads"] < facts["host_threads"]
    assert found["memory"]["facts"]["anonymous_bytes"] < 64 << 20  # not what the host has
    assert {p["comm"] for p in predicted["processes"]} == {"sh", "sleep"}
    first = predicted["warnings"][0]
    assert first.startswith("This is what one pid namespace (a container) shows: ")


def test_a_part_of_the_host_is_told_in_each_answer() -> None:
    system = System()
    system.process(*small(1, 2))
    snapshot = system.snapshot()
    told = predict(snapshot).warnings
    snapshot.info["part_of_host"] = {"threads": 3, "host_threads": 212}
    more = [text for text in predict(snapshot).warnings if text not in told]
    assert len(more) == 1
    assert "3 of the host's 212 threads" in more[0]


def test_threads_of_a_namespace_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "PROC", tmp_path)
    for task in ("1/task/1", "7/task/7", "7/task/8", "self/ns"):
        (tmp_path / task).mkdir(parents=True)
    (tmp_path / "loadavg").write_text("9.51 7.91 5.21 17/378 17995\n")
    assert rights.part_of_host() is None  # a kernel without namespaces
    (tmp_path / "self/ns/pid").touch()
    assert rights.part_of_host() == rights.PartOfHost(3, 378)
    monkeypatch.setitem(namespaces.FIRST, "pid", (tmp_path / "self/ns/pid").stat().st_ino)
    assert rights.part_of_host() is None


@needs_pfns
def test_memory_that_a_security_module_forbids_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vmas, "_of_process", lambda pid: None)
    monkeypatch.setattr(rights, "memory_denied", lambda process: True)
    found = check.check_procfs()
    assert found.exit_code == 3
    assert "the memory of no process may be read" in found.found[-1].text


@needs_pfns
def test_processes_whose_memory_is_denied_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    original, denied = vmas._of_process, {os.getppid()}
    monkeypatch.setattr(
        vmas, "_of_process", lambda one: None if one.pid in denied else original(one)
    )
    monkeypatch.setattr(check, "memory_denied", lambda process: process.pid in denied)
    found = check.check_procfs()
    assert found.exit_code == 0
    about = {finding.subject: finding for finding in found.found}
    assert about["processes"].status == "warn"
    assert about["processes"].facts == {"denied_processes": 1}


def test_memory_is_denied_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "PROC", tmp_path)
    process = Process(7, "x", [])
    assert not rights.memory_denied(process)  # it has ended
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "smaps").touch()
    assert not rights.memory_denied(process)

    def refuse(*_: object, **__: object) -> Any:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    assert rights.memory_denied(process)


@pytest.fixture
def cgroup(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A memory cgroup of our own with a limit of so many bytes."""
    version_1 = (CGROUPS / "memory" / "memory.limit_in_bytes").exists()
    path = CGROUPS / ("memory" if version_1 else "") / f"ksm-estimator-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if version_1 else "memory.max"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if not (path / limit).exists():
            pytest.skip("the memory controller is not to be had here")
        (path / limit).write_text(str(request.param))
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()


@needs_pfns
@pytest.mark.parametrize("cgroup", [100 << 20], indirect=True)
def test_a_memory_cgroup_that_is_nearly_full_is_told_before_it_kills(
    cgroup: Path, tmp_path: Path
) -> None:
    enter = f"echo $$ > {cgroup}/cgroup.procs"
    status, text = shell(f"{enter} && exec {ESTIMATOR} collect --procfs -o {tmp_path}/x.ksm")
    assert status == 1, text
    assert len(text.splitlines()) == 1
    assert f"the memory cgroup {cgroup} has room for" in text
    assert "--max-memory 200M" in text
    assert not list(tmp_path.iterdir())
    status, text = shell(f"{enter} && exec {ESTIMATOR} check --procfs")
    assert status == 1, text
    assert f"the memory cgroup {cgroup} has room for" in " ".join(text.split())


MOUNTINFO = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 {root} {mounted} rw,relatime - {kind} none rw,memory
36 31 0:33 / /nowhere rw,relatime - cgroup cgroup rw,cpu
"""


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
@pytest.mark.parametrize(
    ("root", "free_bytes", "place"),
    [("/", 3100, "a"), ("/a", 6100, "b"), ("/elsewhere", 8000 << 10, None)],
)
def test_the_narrowest_limit_on_the_way_up_counts(
    kind: str,
    root: str,
    free_bytes: int,
    place: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Docker mounts a part of the hierarchy, and as systemd does all of it."""
    proc, mounted = tmp_path / "proc", tmp_path / "mounted"
    (proc / "self").mkdir(parents=True)
    controller = "4:cpu,memory:" if kind == "cgroup" else "0::"
    (proc / "self" / "cgroup").write_text(f"1:name=systemd:/x\n{controller}/a/b\n")
    text = MOUNTINFO.format(root=root, mounted=mounted, kind=kind)
    (proc / "self" / "mountinfo").write_text(text)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   8000 kB\n")
    monkeypatch.setattr(memory_room, "_PROC", proc)
    limit, usage, given_up = memory_room._FILES[kind]
    for cgroup, most, taken in (
        ("a/b", "max", 500),
        ("a", 4000, 1000),
        ("b", 7000, 1000),
        ("", "", 0),
    ):
        directory = mounted / cgroup
        directory.mkdir(parents=True, exist_ok=True)
        for name, value in ((limit, most), (usage, taken)):
            (directory / name).write_text(f"{value}\n")
        (directory / "memory.stat").write_text(f"anon 1\n{given_up} 100\n")
    found = memory_room.memory_room()
    assert found is not None
    assert found.free_bytes == free_bytes
    where = f"the memory cgroup {mounted / place}" if place else "this machine"
    assert found.where == where


def test_nothing_is_refused_where_no_room_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_room, "_PROC", tmp_path)
    assert memory_room.memory_room() is None
    assert memory_room.own_bytes() == 0

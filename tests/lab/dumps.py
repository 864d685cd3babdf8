"""Dumps of one moment in many formats, made once per test run and shared by its processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.lab.crash import crash
from tests.lab.guest import Guest
from tests.lab.kernels import Kernel
from tests.lab.makedumpfile import headers_where_makedumpfile_looks
from tests.lab.programs import build
from tests.lab.workload import Session, Workload

PLAIN = """
    comm plain
    map zeroes 1536             # huge pages: runs that makedumpfile -E -d 1 leaves out
    advise zeroes hugepage
    fill zeroes zero
"""
KEEPER = """
    comm keeper
    merge-any 1
    map data 3000
    fill data list 1
    thin data[:1500]            # or every page is stored as it is, in whatever format
    fork 4
        comm worker
        map identical 2000
        fill identical list 2
        map unique 300
        fill unique own 4
        fill data[:200] own 5
        thin data[:100]
    end
"""

SERIES = "6.12"

#: Some of it is merged already: there are stable nodes.
WORKLOAD = Workload("dumps", (PLAIN, KEEPER), before_dump=lambda session: session.scan(3))

#: What the crash kernel writes: options of makedumpfile, names of the files.
CRASH_DUMPS = {
    "": ["plain"],
    "-c -d 1": ["zlib-1"],
    "-l -d 23": ["lzo-23"],
    "-E -d 16": ["elf-16"],
    "-F -l -d 16": ["flattened-16"],
    "-l -d 17 --splitblock-size 4096 --split": ["split-1", "split-2", "split-3"],
}


@contextlib.contextmanager
def stopped_guest(
    workload: Workload, kernel: Kernel, *, cpu: str = "max", qemu: Sequence[str] = ()
) -> Iterator[Guest]:
    """A guest with ``workload``, of which some is merged already; its CPUs stand still."""
    files = {f"/bin/{name}": build(name, kernel) for name in ("actor", "probe")}
    with Guest(
        kernel,
        memory_mib=workload.memory_mib_of(kernel.page_bytes),
        cpu=cpu,
        files=files,
        qemu=qemu,
    ) as guest:
        session = Session(guest, workload)
        session.set_up()
        for script in workload.scripts:
            session.start(script)
        session.scan(3)
        guest.qmp("stop")
        yield guest


def dump_from_qemu(kernel: Kernel, directory: Path, cpu: str = "max") -> None:
    """One moment as ``elf``, ``elf-paging`` and ``kdump-zlib``; and ``elf`` for makedumpfile."""
    with stopped_guest(WORKLOAD, kernel, cpu=cpu) as guest:
        for name, options in (
            ("elf", {"paging": False}),
            ("elf-paging", {"paging": True}),
            ("kdump-zlib", {"paging": False, "format": "kdump-zlib"}),
        ):
            protocol = f"file:{directory / name}"
            guest.qmp("dump-guest-memory", protocol=protocol, **options)
            (directory / name).chmod(0o600)
    shutil.copyfile(directory / "elf", directory / "elf-for-makedumpfile")
    headers_where_makedumpfile_looks(directory / "elf-for-makedumpfile")


def dump_from_crash(kernel: Kernel, directory: Path) -> None:
    """One moment as ``CRASH_DUMPS``."""
    crash(WORKLOAD, kernel, directory, CRASH_DUMPS)


@contextlib.contextmanager
def shared_directory(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Iterator[Path]:
    """A directory filled by ``make`` in one process of the test run; the last one removes it."""
    base = factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    complete = path / "complete"
    with path.with_suffix(".users").open("w") as users, path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            make(path)
            complete.touch()
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield path
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)

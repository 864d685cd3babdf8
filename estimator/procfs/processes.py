"""The mms of a running system, from /proc/PID: one for all tasks that share it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from estimator.arrays import Columns, Mask, of_rows
from estimator.collect.limits import is_own_limit
from estimator.errors import CannotAnswerError
from estimator.procfs.page_size import PAGE_BYTES
from estimator.snapshot.gathered import objects

PROC = Path("/proc")
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_VM = 1
_RSS_ANON = re.compile(r"^RssAnon:\s*(\d+) kB", re.MULTILINE)
_CLOCK_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """A thread group; ``stat``: the fields of /proc/PID/stat behind the name, from 3 (state).

    ``pid``: through which it is read, ``leader`` its number: where the first thread has ended, and
    is a zombie that has no memory, another one is read.
    """

    pid: int
    comm: str
    stat: list[str]
    sharing_pids: list[int] = field(default_factory=list)
    leader: int = 0

    def __post_init__(self) -> None:
        self.leader = self.leader or self.pid

    def field(self, number: int) -> int:
        """A field of proc_pid_stat(5) by its number there."""
        return int(self.stat[number - 3])

    @property
    def address_space(self) -> tuple[int, ...]:
        """start_code, start_stack, start_brk and arg_start: differ where the mms must differ."""
        return tuple(self.field(number) for number in (26, 28, 47, 48))


def read_processes() -> tuple[list[Process], int]:
    """The thread groups with user memory, by start time and pid; one of each that share an mm.

    And how many could not be read, or were gone by then. Our own process is left out: reading
    changes it. Raises CannotAnswerError if there is no other.
    """
    found, lost = [], 0
    for name in os.listdir(PROC):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                process = _process(int(name))
                if process.stat[0] == "Z" and process.field(20) > 1:
                    process = _of_living_thread(process)
                has_memory = process.field(23) > 0  # vsize: kernel threads and zombies have none
            except (OSError, ValueError, IndexError) as error:
                if is_own_limit(error):
                    raise
                lost += 1
                continue
            if has_memory:
                found.append(process)
    if not found:
        raise CannotAnswerError(f"no process with user memory was found in {PROC}")
    found.sort(key=lambda process: (process.field(22), process.pid))
    return _one_per_mm(found), lost


def damon_runs() -> bool:
    """Whether there is a thread of DAMON: __damon_start() in mm/damon/core.c names it."""
    for comm in PROC.glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_bytes().startswith(b"kdamond."):
                return True
    return False


def _process(pid: int) -> Process:
    text = (PROC / str(pid) / "stat").read_bytes().decode(errors="replace")
    comm, _, rest = text.partition("(")[2].rpartition(")")
    return Process(pid, comm, rest.split())


def _of_living_thread(group: Process) -> Process:
    """``group``, whose first thread has ended, as another of its threads shows it."""
    for name in os.listdir(PROC / str(group.pid) / "task"):
        thread = _process(int(name))
        if thread.field(23) > 0:
            thread.leader, thread.comm = group.pid, group.comm
            return thread
    return group


def still_there(processes: list[Process]) -> Mask:
    """Which of them are what was read: not gone, no other process with the pid, no exec since."""
    return np.array([_is_still(process) for process in processes], np.bool_)


def unreadable(processes: list[Process], read: Mask) -> tuple[list[str], int]:
    """Those not ``read`` (bool each) that live on: name and pid, and their anonymous pages."""
    names, pages = [], 0
    for process, done in zip(processes, read, strict=True):
        if done or not _is_still(process):
            continue
        names.append(f"{process.comm} {process.leader}")
        with contextlib.suppress(OSError):
            status = (PROC / str(process.pid) / "status").read_text(errors="replace")
            found = _RSS_ANON.search(status)
            pages += int(found[1]) * 1024 // PAGE_BYTES if found else 0
    return names, pages


def _is_still(process: Process) -> bool:
    try:
        now = _process(process.pid)
        same_start = now.field(22) == process.field(22)
        return same_start and now.address_space == process.address_space
    except (OSError, ValueError, IndexError):
        return False


def _one_per_mm(processes: list[Process]) -> list[Process]:
    groups: dict[tuple[int, ...], list[Process]] = {}
    for process in processes:
        groups.setdefault(process.address_space, []).append(process)
    shares: dict[int, Process] = {}
    for group in groups.values():
        for first, second in _neighbours(group):
            shares[second.pid] = shares.get(first.pid, first)
    for process in processes:
        if process.pid in shares:
            shares[process.pid].sharing_pids.append(process.leader)
    return [process for process in processes if process.pid not in shares]


def _neighbours(group: list[Process]) -> list[tuple[Process, Process]]:
    """Pairs that share an mm, in the kernel's own order of mms (kcmp(2)), the older one first.

    Without those that end meanwhile.
    """
    while len(group) > 1:
        try:
            ordered = sorted(group, key=functools.cmp_to_key(_compare_mm))
            return [pair for pair in itertools.pairwise(ordered) if _compare_mm(*pair) == 0]
        except OSError:
            there = [process for process in group if can_compare(process.pid)]
            if len(there) == len(group):
                break
            group = there
    return []


def can_compare(pid: int) -> bool:
    """Whether kcmp(2) is there (CONFIG_KCMP, no seccomp filter), and compares this process."""
    try:
        return _kcmp(pid, pid) == 0
    except OSError:
        return False


def _compare_mm(first: Process, second: Process) -> int:
    return {0: 0, 1: -1}.get(_kcmp(first.pid, second.pid), 1)


def _kcmp(first: int, second: int) -> int:
    """How the mms of two processes compare: 0 equal, 1 less, 2 greater."""
    order: int = _libc().syscall(_SYS_KCMP[platform.machine()], first, second, _KCMP_VM, 0, 0)
    if order < 0:
        raise OSError(ctypes.get_errno(), "kcmp")
    return order


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def is_listed(process: Process, *, mergeable: bool) -> bool | None:
    """Whether ksmd has the mm on its list; ``mergeable``: it has a VMA with VM_MERGEABLE.

    proc_pid_ksm_stat() says it from 6.16 on. Before, an mm is entered by __ksm_enter() when it gets
    its first such VMA, and stays when it has none any more: None, not known.
    """
    answer = _pairs(process.pid, "ksm_stat").get("ksm_mergeable")
    if answer is not None:
        return answer == "yes"
    return True if mergeable else None


_COLUMNS: dict[str, Any] = {
    "pid": np.int32,
    **dict.fromkeys(("comm", "cmdline"), np.object_),
    "uid": np.uint32,
    "cgroup": np.object_,
    "merge_any": np.bool_,
    "threads": np.uint32,
    "sharing_pids": np.object_,
    "sched_policy": np.uint8,
    "nice": np.int8,
    "start_time_ns": np.uint64,
    **dict.fromkeys(("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages"), np.int64),
    "parent_pid": np.int32,
}


def process_columns(processes: list[Process]) -> Columns:
    """Those of ``processes.parquet`` but for the numbers that ``numbered`` gives."""
    rows = [_row(process) for process in processes]
    columns: Columns = {}
    for name, dtype in _COLUMNS.items():
        values = [row[name] for row in rows]
        if dtype is np.object_:
            columns[name] = objects(values)
        else:
            null = np.array([value is None for value in values], np.bool_)
            numbers = np.array([value or 0 for value in values], dtype)
            columns[name] = np.ma.MaskedArray(numbers, null) if null.any() else numbers
    return columns


def numbered(processes: Columns, rows: Mask, listed: Mask, known: Mask) -> Columns:
    """The rows where ``rows`` is true, with mm_id u32 and scan_order i32.

    ``listed``: which stand on ksmd's list, taken to be in the order of the rows: the list's own
    order stands in no file. The others have the scan_order -1, or null if not ``known``.
    """
    listed = listed[rows]
    order = np.where(listed, np.cumsum(listed) - 1, -1).astype(np.int32)
    numbers = {
        "mm_id": np.arange(len(listed), dtype=np.uint32),
        "scan_order": np.ma.MaskedArray(order, ~known[rows]),
    }
    return numbers | of_rows(processes, rows)


def _row(process: Process) -> dict[str, Any]:
    status = _pairs(process.pid, "status")
    counters = _pairs(process.pid, "ksm_stat")
    merging = _text(process.pid, "ksm_merging_pages").strip()
    return {
        "pid": process.leader,
        "comm": process.comm,
        "cmdline": _text(process.pid, "cmdline").rstrip("\0").replace("\0", " ") or None,
        "uid": int(status.get("Uid", "0").split()[0]),
        "cgroup": _cgroup(process.pid),
        "merge_any": _merge_any(counters),
        "threads": process.field(20),
        "sharing_pids": sorted(process.sharing_pids),
        "sched_policy": process.field(41),
        "nice": process.field(19),
        "start_time_ns": process.field(22) * _CLOCK_TICK_NS,
        "ksm_rmap_items": _counter(counters.get("ksm_rmap_items")),
        "ksm_merging_pages": _counter(counters.get("ksm_merging_pages") or merging),
        "ksm_zero_pages": _counter(counters.get("ksm_zero_pages")),
        "parent_pid": _counter(status.get("PPid")),
    }


def _merge_any(counters: dict[str, str]) -> bool | None:
    answer = counters.get("ksm_merge_any")  # 6.16+
    return None if answer is None else answer == "yes"


def _counter(text: str | None) -> int | None:
    return int(text) if text else None


def _cgroup(pid: int) -> str:
    """Of the one hierarchy of version 2; "" if it can't be read.

    It has no line until it is mounted somewhere (proc_cgroup_show() in kernel/cgroup/cgroup.c):
    then all are in its root.
    """
    try:
        lines = (PROC / str(pid) / "cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _pairs(pid: int, name: str) -> dict[str, str]:
    """The "key: value" and "key value" lines of a file."""
    words = (line.replace(":", " ", 1).split(None, 1) for line in _text(pid, name).splitlines())
    return {pair[0]: pair[1] for pair in words if len(pair) == 2}


def _text(pid: int, name: str) -> str:
    """A file of /proc/PID; "" if the kernel has none or the process is gone."""
    try:
        return (PROC / str(pid) / name).read_bytes().decode(errors="replace")
    except OSError:
        return ""

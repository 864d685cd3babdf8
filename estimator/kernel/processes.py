"""The mms of a system in ksmd's scan order, and who owns them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Object, Program

from estimator.arrays import Columns, Mask, Words, of_rows
from estimator.kernel.arch import page_table_format
from estimator.kernel.failures import skip_unreadable
from estimator.kernel.layout import (
    first_member,
    has_function,
    has_member,
    offset,
    struct_dtype,
)
from estimator.kernel.linked import LONGEST_LIST, list_nodes
from estimator.kernel.memory import Memory
from estimator.kernel.mm_slots import mm_slots
from estimator.kernel.paths import Paths
from estimator.snapshot.gathered import objects

_PF_EXITING, _PF_KTHREAD = 0x4, 0x0020_0000  # include/linux/sched.h
_TASK_NOLOAD = 0x400  # of TASK_IDLE
_KDAMOND = "kdamond."  # __damon_start() in mm/damon/core.c
_KSMD = "ksmd"  # ksm_init() in mm/ksm.c
_MMF_VM_MERGE_ANY = 30  # include/linux/sched/coredump.h; 29 in 6.4-6.6
_DEFAULT_PRIO, _MAX_PRIO = 120, 140
_MAX_POLICY = 256
_MOST_PAGES = 1 << 52  # a damaged counter may say more
_HIGHEST_PHYSICAL = np.uint64(1 << 52)
_KSM_COUNTERS = ("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
_MOST = np.iinfo(np.uint64).max
_MM_MEMBERS = (
    *("pgd", "flags", "map_count"),
    *("arg_start", "arg_end", "start_brk", "brk", "start_stack"),
)


@dataclass
class Owner:
    """The tasks that use one mm: the first thread group found and those that share with it.

    ``task``: the row of the leader.
    """

    task: int
    uid: int
    threads: int
    sharing_pids: list[int] = field(default_factory=list)


_NOBODY = Owner(task=-1, uid=0, threads=0)


@dataclass(frozen=True)
class Damon:
    """``runs``: it has a kernel thread. ``awake``: how many of them may hold a folio just now."""

    runs: bool
    awake: int


@dataclass(frozen=True)
class Mms:
    """``columns``: those of ``processes.parquet`` but mm_id and, until it is read, cmdline.

    ``structs``: the mm_structs. ``addresses``: u64, where they are. ``unreadable``: tasks and mms
    not read, or left out since. ``ksmd_cpu_ns``: CPU time of ksmd since boot; None: not found.
    """

    columns: Columns
    structs: Any
    addresses: Words
    unreadable: int
    damon: Damon
    ksmd_cpu_ns: int | None

    def keep(self, rows: Mask) -> Mms:
        """The mms where ``rows`` is true, numbered anew."""
        unreadable = self.unreadable + int(np.count_nonzero(~rows))
        return replace(
            self,
            columns=of_rows(self.columns, rows),
            structs=self.structs[rows],
            addresses=self.addresses[rows],
            unreadable=unreadable,
        )

    def without(self, rows: Mask) -> Mms:
        """The mms where ``rows`` is false, numbered anew; that the others are missing is known."""
        return replace(self.keep(~rows), unreadable=self.unreadable)


def read_processes(prog: Program, memory: Memory) -> Mms:
    """Every mm that has a task or stands on ksmd's list, in ksmd's scan order.

    Threads and CLONE_VM processes share one mm: it is one row. Kernel threads have none.
    """
    tasks, unreadable = _leaders(prog, memory)
    is_thread_of_kernel = tasks["flags"] & _PF_KTHREAD != 0
    kernel_threads, tasks = tasks[is_thread_of_kernel], tasks[~is_thread_of_kernel]
    of_kernel = _damon(kernel_threads), _ksmd_cpu_ns(kernel_threads)
    owners, lost = _owners(prog, memory, tasks)
    unreadable += lost
    order = {slot.mm: place for place, slot in enumerate(mm_slots(prog))}
    dtype = _mm_dtype(prog)
    addresses = np.array([*order, *(mm for mm in owners if mm not in order)], np.uint64)
    structs, ok = memory.structs(addresses, dtype)
    alive = ok & _in_use(memory, structs)
    addresses, structs = addresses[alive], structs[alive]
    unreadable += int((~ok).sum())
    if not len(structs):
        return Mms({}, structs, addresses, unreadable, *of_kernel)
    columns = _columns(prog, memory, addresses.tolist(), structs, order, owners, tasks)
    scan_order = columns["scan_order"]
    place = np.where(scan_order >= 0, scan_order, len(order))
    sorted_rows = np.lexsort((columns["pid"], columns["start_time_ns"], place))
    columns = of_rows(columns, sorted_rows)
    return Mms(columns, structs[sorted_rows], addresses[sorted_rows], unreadable, *of_kernel)


def _damon(kernel_threads: Any) -> Damon:
    """Between two looks it sleeps as TASK_IDLE (5.16+): kdamond_usleep() in mm/damon/core.c."""
    ours = [_comm(name).startswith(_KDAMOND) for name in kernel_threads["comm"]]
    awake = (kernel_threads["state"][ours] & _TASK_NOLOAD) == 0
    return Damon(any(ours), int(np.count_nonzero(awake)))


def _ksmd_cpu_ns(kernel_threads: Any) -> int | None:
    """What the scheduler has counted for it, as task_sched_runtime() gives to /proc."""
    ours = np.array([_comm(name) == _KSMD for name in kernel_threads["comm"]], np.bool_)
    if "runtime" not in kernel_threads.dtype.names or not ours.any():
        return None
    return int(kernel_threads["runtime"][ours][0])


def still_there(prog: Program, memory: Memory, mms: Mms) -> Mask:
    """Which of the mms are still the ones that were read: not exited, not used for another."""
    structs, ok = memory.structs(mms.addresses, _mm_dtype(prog))
    for name in ("pgd", "arg_start", "start_stack"):
        ok &= structs[name] == mms.structs[name]
    return ok & _in_use(memory, structs)


def reread_roots(prog: Program, memory: Memory, mms: Mms) -> tuple[Words, npt.NDArray[np.int64]]:
    """Where the VMAs of each mm hang now, u64, and how many they are; 0 and 0 if the mm is gone."""
    structs, _ = memory.structs(mms.addresses, _mm_dtype(prog))
    there = still_there(prog, memory, mms)
    roots = np.where(there, structs["vmas"], np.uint64(0))
    return roots, np.where(there, structs["map_count"], 0).astype(np.int64)


def _in_use(memory: Memory, structs: Any) -> Mask:
    """Not ksm_test_exit(), and page tables where page tables can be."""
    table = memory.physical(structs["pgd"])
    alignment = np.uint64(page_table_format(memory.prog).top_bytes)
    aligned = (table & (alignment - np.uint64(1))) == 0
    in_use: Mask = (structs["mm_users"] > 0) & aligned & (table < _HIGHEST_PHYSICAL)
    # where ``table`` wraps
    not_below: Mask = memory.untagged(structs["pgd"]) >= np.uint64(memory.direct_map)
    return in_use & not_below


def _leaders(prog: Program, memory: Memory) -> tuple[Any, int]:
    """The thread group leaders, those of the kernel too, and how many are lost."""
    dtype = _task_dtype(prog)
    init_task = prog["init_task"]
    tasks_offset = offset(prog, "struct task_struct", "tasks")
    head = init_task.tasks.address_of_().value_()
    leaders = list_nodes(prog, head) - np.uint64(tasks_offset)
    tasks, ok = memory.structs(leaders, dtype)
    ok &= (tasks["pid"] > 0) & (tasks["pid"] < LONGEST_LIST)
    ok &= (tasks["static_prio"] >= 0) & (tasks["static_prio"] < _MAX_PRIO)
    ok &= tasks["policy"] < _MAX_POLICY
    return tasks[ok], int((~ok).sum())


def _owners(prog: Program, memory: Memory, tasks: Any) -> tuple[dict[int, Owner], int]:
    """Who of the leaders ``tasks`` uses which mm, and how many are lost."""
    owners: dict[int, Owner] = {}
    lost = 0
    uids = _numbers(prog, memory, tasks["cred"], "struct cred", "uid.val")
    threads_of = _numbers(prog, memory, tasks["signal"], "struct signal_struct", "nr_threads")
    pids, mms, signals = (tasks[name].tolist() for name in ("pid", "mm", "signal"))
    for task, (pid, uid, threads) in enumerate(zip(pids, uids, threads_of, strict=True)):
        mm = mms[task] or _mm_of_a_thread(prog, memory, tasks.dtype, signals[task])
        if not mm:
            lost += not tasks["flags"][task] & _PF_EXITING  # else a zombie
            continue
        if mm in owners:
            owners[mm].threads += threads
            owners[mm].sharing_pids.append(pid)
        else:
            owners[mm] = Owner(task, uid, threads)
    return owners, lost


def _mm_of_a_thread(prog: Program, memory: Memory, dtype: Any, signal: int) -> int:
    """The mm of a thread group whose leader has exited already; 0 if all have."""
    head = signal + offset(prog, "struct signal_struct", "thread_head")
    nodes = list_nodes(prog, head)
    thread_offset = np.uint64(offset(prog, "struct task_struct", "thread_node"))
    threads, ok = memory.structs(nodes - thread_offset, dtype)
    mms = threads["mm"][ok]
    return int(mms[mms != 0][0]) if mms.any() else 0


def _columns(
    prog: Program,
    memory: Memory,
    addresses: list[int],
    mms: Any,
    order: dict[int, int],
    owners: dict[int, Owner],
    tasks: Any,
) -> Columns:
    """Those of ``processes.parquet`` but for mm_id and cmdline, a value per mm."""
    parents, parents_ok = _tgids(prog, memory, tasks["real_parent"])
    owned = [owners.get(mm) for mm in addresses]
    some = [owner or _NOBODY for owner in owned]
    has = np.array([owner is not None for owner in owned])
    rows = [owner.task for owner in some]
    task = np.append(tasks, np.zeros(1, tasks.dtype))[rows]
    cgroup = functools.cache(functools.partial(_cgroup, prog, Paths(prog)))
    nice = np.clip(task["static_prio"] - _DEFAULT_PRIO, -20, 19)
    columns = {
        "scan_order": np.array([order.get(mm, -1) for mm in addresses], np.int32),
        "pid": np.where(has, task["pid"], -1).astype(np.int32),
        "comm": objects([_comm(name) for name in task["comm"]]),
        "uid": np.array([owner.uid for owner in some], np.uint32),
        "cgroup": objects(
            [cgroup(css_set) if css_set else "" for css_set in task["cgroups"].tolist()]
        ),
        "merge_any": _merge_any(prog, mms),
        "threads": np.array([min(owner.threads, LONGEST_LIST) for owner in some], np.uint32),
        "sharing_pids": objects([sorted(owner.sharing_pids) for owner in some]),
        "sched_policy": (task["policy"] & 0xFF).astype(np.uint8),
        "nice": np.where(has, nice, 0).astype(np.int8),
        "start_time_ns": np.where(has, task["start_time"], np.uint64(_MOST)),
    }
    parent, known = (np.append(each, 0)[rows] for each in (parents, parents_ok))
    columns["parent_pid"] = np.ma.MaskedArray(parent.astype(np.int32), known == 0)
    for counter in _KSM_COUNTERS:
        there = counter in mms.dtype.names
        pages = mms[counter].astype(np.uint64) if there else np.full(len(mms), _MOST, np.uint64)
        known = pages <= _MOST_PAGES
        columns[counter] = np.ma.MaskedArray(np.where(known, pages, 0).astype(np.int64), ~known)
    return columns


def _merge_any(prog: Program, mms: Any) -> npt.NDArray[Any]:
    if not has_function(prog, "ksm_enable_merge_any"):  # 6.4+, d7597f59d1d3
        return np.ma.MaskedArray(np.zeros(len(mms), np.bool_), np.ones(len(mms), np.bool_))
    bit = _MMF_VM_MERGE_ANY if "ksm_smart_scan" in prog else _MMF_VM_MERGE_ANY - 1
    flags = mms["flags"]
    word = flags[:, 0] if flags.ndim == 2 else flags
    found = (word >> np.uint64(bit) & np.uint64(1)) != 0
    return np.ma.MaskedArray(found, np.zeros(len(mms), np.bool_))


def _comm(name: Any) -> str:
    text: str = name.tobytes().split(b"\0")[0].decode(errors="replace")
    return text


def _cgroup(prog: Program, paths: Paths, css_set: int) -> str:
    with skip_unreadable(AttributeError, LookupError, ValueError):
        return paths.of_cgroup(Object(prog, "struct css_set *", css_set).dfl_cgrp)
    return ""


def _numbers(prog: Program, memory: Memory, structs: Words, type_: str, path: str) -> list[int]:
    """An unsigned 32-bit member of each of the structs at ``structs``; 0 if it can't be read."""
    place = structs + np.uint64(offset(prog, type_, path))
    found, _ = memory.structs(place, np.dtype([("number", np.uint32)]))
    numbers: list[int] = found["number"].tolist()
    return numbers


def _tgids(prog: Program, memory: Memory, tasks: Words) -> tuple[npt.NDArray[np.int32], Mask]:
    """The pid of the thread group of each of the ``tasks``, and which could be read."""
    place = tasks + np.uint64(offset(prog, "struct task_struct", "tgid"))
    found, ok = memory.structs(place, np.dtype([("tgid", np.int32)]))
    return found["tgid"], ok & (found["tgid"] >= 0) & (found["tgid"] < LONGEST_LIST)


def _task_dtype(prog: Program) -> Any:
    names = ("pid", "comm", "flags", "mm", "signal", "cred", "cgroups", "policy", "static_prio")
    type_ = "struct task_struct"
    members = {name: name for name in (*names, "start_time", "real_parent")}
    members["state"] = first_member(prog, type_, "__state", "state")  # 5.14, 2f064a59a11f
    if has_member(prog, type_, "se.sum_exec_runtime"):
        members["runtime"] = "se.sum_exec_runtime"
    return struct_dtype(prog, type_, members)


def _mm_dtype(prog: Program) -> Any:
    type_ = "struct mm_struct"
    members = {name: name for name in _MM_MEMBERS}
    members["mm_users"] = "mm_users.counter"
    members["vmas"] = first_member(prog, type_, "mm_mt.ma_root", "mmap")
    for counter in _KSM_COUNTERS:
        for path in (f"{counter}.counter", counter):
            if has_member(prog, type_, path):
                members[counter] = path
                break
    return struct_dtype(prog, type_, members)

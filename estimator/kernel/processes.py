"""The mms of a system in ksmd's scan order, and who owns them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from drgn import FaultError, Object, Program
from drgn.helpers.linux.cgroup import cgroup_path
from drgn.helpers.linux.mm import access_remote_vm

from estimator.kernel.layout import (
    first_member,
    first_type,
    has_function,
    has_member,
    offset,
    struct_dtype,
)
from estimator.kernel.memory import Memory, Words

_PF_KTHREAD = 0x0020_0000  # include/linux/sched.h
_MMF_VM_MERGE_ANY = 30  # include/linux/sched/coredump.h; 29 in 6.4-6.6
_DEFAULT_PRIO = 120
_MOST_THREADS = 4_000_000  # PID_MAX_LIMIT
_CMDLINE_BYTES = 4096
_MOST_PAGES = 1 << 52  # a damaged counter may say more
_KSM_COUNTERS = ("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
_NULLABLE = {"merge_any": "boolean"} | dict.fromkeys(_KSM_COUNTERS, "Int64")
_MM_MEMBERS = (
    *("pgd", "flags", "map_count"),
    *("arg_start", "arg_end", "start_brk", "brk", "start_stack"),
)


@dataclass
class Owner:
    """The tasks that use one mm: the first thread group found and those that share with it."""

    leader: Any
    threads: int
    sharing_pids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Mms:
    """``table``: rows of ``processes.parquet``. ``structs``: the mm_structs, one per row.

    ``addresses``: u64, where the mm_structs are. ``unreadable``: tasks and mms not read.
    """

    table: pd.DataFrame
    structs: Any
    addresses: Words
    unreadable: int


def read_processes(prog: Program, memory: Memory) -> Mms:
    """Every mm that has a task or stands on ksmd's list, in ksmd's scan order.

    Threads and CLONE_VM processes share one mm: it is one row. Kernel threads have none.
    """
    owners, unreadable = _owners(prog, memory)
    order = {mm: place for place, mm in enumerate(_ksm_mm_list(prog))}
    dtype = _mm_dtype(prog)
    addresses = np.array([*order, *(mm for mm in owners if mm not in order)], np.uint64)
    structs, ok = memory.structs(addresses, dtype)
    alive = ok & (structs["mm_users"] > 0)  # ksm_test_exit()
    addresses, structs = addresses[alive], structs[alive]
    rows = [
        _row(prog, order.get(mm, -1), owners.get(mm), struct, mm)
        for mm, struct in zip(addresses.tolist(), structs, strict=True)
    ]
    table = pd.DataFrame(rows).astype(_NULLABLE)
    place = table["scan_order"].where(table["scan_order"] >= 0, len(order))
    sorted_rows = np.lexsort((table["pid"], table["start_time_ns"], place))
    table = table.iloc[sorted_rows].reset_index(drop=True)
    table.insert(0, "mm_id", np.arange(len(table), dtype=np.uint32))
    return Mms(table, structs[sorted_rows], addresses[sorted_rows], unreadable + int((~ok).sum()))


def _owners(prog: Program, memory: Memory) -> tuple[dict[int, Owner], int]:
    dtype = _task_dtype(prog)
    init_task = prog["init_task"]
    tasks_offset = offset(prog, "struct task_struct", "tasks")
    head = init_task.tasks.address_of_().value_()
    leaders = np.fromiter(_list(prog, head), np.uint64) - np.uint64(tasks_offset)
    tasks, ok = memory.structs(leaders, dtype)
    owners: dict[int, Owner] = {}
    for task in tasks[ok & (tasks["flags"] & _PF_KTHREAD == 0)]:
        mm = int(task["mm"]) or _mm_of_a_thread(prog, memory, dtype, int(task["signal"]))
        if not mm:
            continue  # a zombie
        threads = _int(prog, int(task["signal"]), "struct signal_struct", "nr_threads")
        if mm in owners:
            owners[mm].threads += threads
            owners[mm].sharing_pids.append(int(task["pid"]))
        else:
            owners[mm] = Owner(task, threads)
    return owners, int((~ok).sum())


def _mm_of_a_thread(prog: Program, memory: Memory, dtype: Any, signal: int) -> int:
    """The mm of a thread group whose leader has exited already; 0 if all have."""
    head = signal + offset(prog, "struct signal_struct", "thread_head")
    nodes = np.fromiter(_list(prog, head), np.uint64)
    thread_offset = np.uint64(offset(prog, "struct task_struct", "thread_node"))
    threads, ok = memory.structs(nodes - thread_offset, dtype)
    mms = threads["mm"][ok]
    return int(mms[mms != 0][0]) if mms.any() else 0


def _ksm_mm_list(prog: Program) -> list[int]:
    """The mms on ksmd's list from head.next on: the order of a full scan (struct ksm_scan)."""
    slot = first_type(prog, "struct ksm_mm_slot", "struct mm_slot")
    link = first_member(prog, slot, "slot.mm_node", "mm_list")
    pointer = first_member(prog, slot, "slot.mm", "mm")
    link_offset, mm_offset = offset(prog, slot, link), offset(prog, slot, pointer)
    head = prog["ksm_mm_head"].address_of_().value_() + link_offset
    return [prog.read_u64(node - link_offset + mm_offset) for node in _list(prog, head)]


def _list(prog: Program, head: int) -> Iterator[int]:
    """The nodes of a list_head, without the head; ends at an unreadable or looping node."""
    node, seen = prog.read_u64(head), {head}
    while node not in seen:
        seen.add(node)
        yield node
        try:
            node = prog.read_u64(node)
        except FaultError:
            return


def _row(
    prog: Program, scan_order: int, owner: Owner | None, mm: Any, address: int
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "scan_order": scan_order,
        "pid": -1,
        "comm": "",
        "cmdline": None,
        "uid": 0,
        "cgroup": "",
        "merge_any": _merge_any(prog, mm),
        "threads": 0,
        "sharing_pids": [],
        "sched_policy": 0,
        "nice": 0,
        "start_time_ns": np.iinfo(np.uint64).max,
    }
    if owner is not None:
        task = owner.leader
        row |= {
            "pid": int(task["pid"]),
            "comm": task["comm"].tobytes().split(b"\0")[0].decode(errors="replace"),
            "cmdline": _cmdline(prog, mm, address),
            "uid": _int(prog, int(task["cred"]), "struct cred", "uid.val"),
            "cgroup": _cgroup(prog, int(task["cgroups"])),
            "threads": min(owner.threads, _MOST_THREADS),
            "sharing_pids": sorted(owner.sharing_pids),
            "sched_policy": int(task["policy"]) & 0xFF,
            "nice": min(max(int(task["static_prio"]) - _DEFAULT_PRIO, -20), 19),
            "start_time_ns": int(task["start_time"]),
        }
    for counter in _KSM_COUNTERS:
        value = int(mm[counter]) if counter in mm.dtype.names else None
        row[counter] = None if value is None or value > _MOST_PAGES else value
    return row


def _merge_any(prog: Program, mm: Any) -> bool | None:
    if not has_function(prog, "ksm_enable_merge_any"):  # 6.4+, d7597f59d1d3
        return None
    bit = _MMF_VM_MERGE_ANY if "ksm_smart_scan" in prog else _MMF_VM_MERGE_ANY - 1
    flags = mm["flags"]
    word = int(flags[0]) if getattr(flags, "ndim", 0) else int(flags)
    return bool(word >> bit & 1)


def _cmdline(prog: Program, mm: Any, address: int) -> str | None:
    size = min(int(mm["arg_end"]) - int(mm["arg_start"]), _CMDLINE_BYTES)
    if size <= 0:
        return None
    try:
        raw = access_remote_vm(
            Object(prog, "struct mm_struct *", address), int(mm["arg_start"]), size
        )
    except (FaultError, OSError, ValueError):
        return None
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def _cgroup(prog: Program, css_set: int) -> str:
    try:
        group = Object(prog, "struct css_set *", css_set).dfl_cgrp
        return cgroup_path(group).decode(errors="replace")
    except (FaultError, AttributeError, LookupError):
        return ""


def _int(prog: Program, address: int, type_: str, path: str) -> int:
    """An unsigned 32-bit member; 0 if it can't be read."""
    try:
        return prog.read_u32(address + offset(prog, type_, path))
    except FaultError:
        return 0


def _task_dtype(prog: Program) -> Any:
    names = ("pid", "comm", "flags", "mm", "signal", "cred", "cgroups", "policy", "static_prio")
    members = {name: name for name in names} | {"start_time": "start_time"}
    return struct_dtype(prog, "struct task_struct", members)


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

"""What the kernel says twice: its counters against what was found.

A damaged or half-filtered dump reads without an error where a pointer was lost. On an intact dump
all of these agree to the page.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from drgn import Program
from drgn.helpers.linux.cpumask import for_each_online_cpu

from estimator.arrays import Columns, Ints, Words
from estimator.collect.tables import Table
from estimator.kernel.layout import has_member, offset, struct_dtype
from estimator.kernel.memory import Memory
from estimator.kernel.stable_tree import StableTree
from estimator.packed import Packed
from estimator.snapshot.flags import FrameKind
from estimator.snapshot.format import CONTENTS

_MM_FILEPAGES, _MM_ANONPAGES, _, _MM_SHMEMPAGES = range(4)  # include/linux/mm_types_task.h
_UNSYNCED_PAGES = 64  # TASK_RSS_EVENTS_THRESH: what a thread keeps to itself, until 6.2


def missing_anonymous_pages(
    prog: Program,
    memory: Memory,
    addresses: Words,
    mms: Columns,
    vmas: Columns,
    mappings: Table,
) -> int:
    """Anonymous pages that the counters of the mms have and that were not found.

    ``addresses``: of the mm_structs, in mm_id order. Migration entries and pages that are known as
    unknown are not missing; swap entries are not in the counter.
    """
    mm_id = vmas["mm_id"].astype(np.int64)
    pages = _count(mappings["vma_id"], len(mm_id)).astype(np.int64)
    for column in ("nonpresent_pages", "unknown_pages"):
        pages += vmas[column].astype(np.int64)
    found = np.bincount(mm_id, pages, len(addresses)).astype(np.int64)
    if has_member(prog, "struct task_struct", "rss_stat.events"):  # until 6.2, f1a7941243c1
        found += _UNSYNCED_PAGES * mms["threads"].astype(np.int64)
    missing = _counted_pages(prog, memory, addresses, _MM_ANONPAGES) - found
    return int(missing[missing > 0].sum())


def anonymous_pages(prog: Program, memory: Memory, addresses: Words) -> int:
    """Sum of the counters MM_ANONPAGES of the mm_structs at ``addresses``; unreadable ones: 0."""
    pages = _counted_pages(prog, memory, addresses, _MM_ANONPAGES)
    return int(pages[pages > 0].sum())


def other_pages(prog: Program, memory: Memory, addresses: Words, contents: str) -> int:
    """Pages of the memory that ``contents`` asks for besides, mapped by these mm_structs."""
    if contents == CONTENTS[0]:
        return 0
    total = _counted_pages(prog, memory, addresses, _MM_SHMEMPAGES)
    if contents == CONTENTS[-1]:
        total += _counted_pages(prog, memory, addresses, _MM_FILEPAGES)
    if has_member(prog, "struct mm_struct", "hugetlb_usage"):
        usage = struct_dtype(prog, "struct mm_struct", {"pages": "hugetlb_usage.counter"})
        total += memory.structs(addresses, usage)[0]["pages"].astype(np.int64)
    return int(total[total > 0].sum())


def contradictions(
    map_counts: Ints,
    vmas: Columns,
    mappings: Table,
    frames: Table,
    tree: StableTree,
    counters: Mapping[str, int],
) -> list[str]:
    """Sentences on what contradicts itself in a dump; none if it is whole.

    ``map_counts``: mm->map_count per mm. ``counters``: ksmd's own. The others: tables of the
    snapshot.
    """
    found = []
    vma_counts = np.bincount(vmas["mm_id"], minlength=len(map_counts))
    if wrong := int(np.count_nonzero(vma_counts != map_counts)):
        found.append(f"{wrong} processes have more or fewer VMAs than their count says")
    mapped = _count(mappings["frame_id"], len(frames["pfn"]))
    if wrong := int(np.count_nonzero(mapped != frames["mapcount"][:])):
        found.append(f"{wrong} frames are mapped more or less often than their count says")
    for name in ("pages_shared", "pages_sharing"):
        held = getattr(tree, name)
        if held != counters.get(name, held):
            found.append(f"the stable tree holds {held} {name}, ksmd counts {counters[name]}")
    stale = int(np.count_nonzero(~tree.nodes["live"]))
    is_ksm = frames["kind"][:] == FrameKind.KSM
    live = np.ma.compressed(tree.nodes["frame_id"][tree.nodes["live"]])
    orphans = int(np.count_nonzero(is_ksm)) - int(np.count_nonzero(is_ksm[live]))
    if orphans and stale:  # each by itself happens
        found.append(f"{orphans} KSM pages are on no stable node, {stale} nodes are of other pages")
    return [
        f"{text}: the dump is damaged, or was taken in the middle of a change" for text in found
    ]


def _count(numbers: Packed, size: int) -> npt.NDArray[np.int32]:
    """How often each number from 0 to ``size`` - 1 is there."""
    counts = np.zeros(size, np.int32)
    for piece in numbers.pieces():
        np.add.at(counts, piece, np.int32(1))
    return counts


def _counted_pages(prog: Program, memory: Memory, addresses: Words, which: int) -> Ints:
    """The counter MM_* of each mm, i64; 0 where it can't be read."""
    counter = np.uint64(offset(prog, "struct mm_struct", "rss_stat"))
    if not has_member(prog, "struct mm_struct", "rss_stat.count"):  # 6.2+, f1a7941243c1
        return _percpu_counters(prog, memory, addresses + counter, which)
    counts = struct_dtype(prog, "struct mm_rss_stat", {"count": "count"})
    found, _ = memory.structs(addresses + counter, counts)
    pages: Ints = found["count"][:, which].astype(np.int64)
    return pages


def _percpu_counters(prog: Program, memory: Memory, arrays: Words, which: int) -> Ints:
    """percpu_counter_sum() of the element ``which`` of each of the ``arrays`` of counters."""
    type_ = "struct percpu_counter"
    members = {"count": "count"}
    if has_member(prog, type_, "counters"):  # on !SMP kernels there is nothing to sum
        members["counters"] = "counters"
    dtype = struct_dtype(prog, type_, members)
    counters, ok = memory.structs(arrays + np.uint64(which * dtype.itemsize), dtype)
    total: Ints = counters["count"].astype(np.int64)
    for cpu in for_each_online_cpu(prog) if "counters" in members else ():
        of_cpu = counters["counters"] + np.uint64(prog["__per_cpu_offset"][cpu].value_())
        parts, read = memory.structs(of_cpu, np.dtype([("count", "<i4")]))
        total += parts["count"]
        ok &= read
    total[~ok] = 0
    return total

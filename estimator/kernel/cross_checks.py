"""What the kernel says twice: its counters against what was found.

A damaged or half-filtered dump reads without an error where a pointer was lost. On an intact dump
all of these agree to the page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from drgn import FaultError, Object, Program, TypeKind
from drgn.helpers.linux.percpu import percpu_counter_sum

from estimator.facts import FrameFlag
from estimator.kernel.layout import has_member
from estimator.kernel.memory import Words
from estimator.kernel.stable_tree import StableTree

_MM_ANONPAGES = 1  # include/linux/mm_types_task.h
_UNSYNCED_PAGES = 64  # TASK_RSS_EVENTS_THRESH: what a thread keeps to itself, until 6.2

Ints = npt.NDArray[np.int64]


def missing_anonymous_pages(
    prog: Program,
    addresses: Words,
    mms: pd.DataFrame,
    vmas: pd.DataFrame,
    mappings: pd.DataFrame,
) -> int:
    """Anonymous pages that the counters of the mms have and that were not found.

    ``addresses``: of the mm_structs, in mm_id order. Migration entries and pages that are known as
    unknown are not missing; swap entries are not in the counter.
    """
    mm_id = vmas["mm_id"].to_numpy(np.int64)
    found = np.bincount(mm_id[mappings["vma_id"].to_numpy()], minlength=len(mms))
    for column in ("nonpresent_pages", "unknown_pages"):
        found += np.bincount(mm_id, vmas[column].to_numpy(), len(mms)).astype(np.int64)
    unsynced = _UNSYNCED_PAGES * mms["threads"].to_numpy(np.int64)
    exact = not has_member(prog, "struct task_struct", "rss_stat.events")  # 6.2+, f1a7941243c1
    missing = 0
    for row, address in enumerate(addresses.tolist()):
        try:
            counted = _anonymous_pages(Object(prog, "struct mm_struct *", address))
        except (FaultError, LookupError):
            continue
        missing += max(0, counted - int(found[row]) - (0 if exact else int(unsynced[row])))
    return missing


def anonymous_pages(prog: Program, addresses: Words) -> int:
    """Sum of the counters MM_ANONPAGES of the mm_structs at ``addresses``; unreadable ones: 0."""
    pages = 0
    for address in addresses.tolist():
        with contextlib.suppress(FaultError, LookupError):
            pages += max(0, _anonymous_pages(Object(prog, "struct mm_struct *", address)))
    return pages


def contradictions(
    map_counts: Ints,
    vmas: pd.DataFrame,
    mappings: pd.DataFrame,
    frames: pd.DataFrame,
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
    mapped = np.bincount(mappings["frame_id"], minlength=len(frames))
    if wrong := int(np.count_nonzero(mapped != frames["mapcount"].to_numpy())):
        found.append(f"{wrong} frames are mapped more or less often than their count says")
    if not tree.migrating:
        for name in ("pages_shared", "pages_sharing"):
            held = getattr(tree, name)
            if held != counters.get(name, held):
                found.append(f"the stable tree holds {held} {name}, ksmd counts {counters[name]}")
    stale = int(np.count_nonzero(~tree.nodes["live"]))
    is_ksm = (frames["flags"].to_numpy() & np.uint32(FrameFlag.KSM)) != 0
    live = tree.nodes.loc[tree.nodes["live"], "frame_id"].dropna().to_numpy(np.int64)
    orphans = int(np.count_nonzero(is_ksm)) - int(np.count_nonzero(is_ksm[live]))
    if orphans and stale:  # each by itself happens
        found.append(f"{orphans} KSM pages are on no stable node, {stale} nodes are of other pages")
    return [
        f"{text}: the dump is damaged, or was taken in the middle of a change" for text in found
    ]


def _anonymous_pages(mm: Object) -> int:
    """The counter MM_ANONPAGES."""
    stat = mm.rss_stat
    if stat.type_.unaliased_kind() == TypeKind.ARRAY:
        return percpu_counter_sum(stat[_MM_ANONPAGES].address_of_())
    return int(stat.count[_MM_ANONPAGES].counter)

"""How many zero pages ksmd has placed, by its kernel's counters and by page tables: two numbers.

Fork copies mappings of the zero page, and counts them apart from that or not at all.
"""

from __future__ import annotations

import numpy as np

from estimator.arrays import Ints
from estimator.ksm.case import Case
from estimator.snapshot.snapshot import Snapshot

_MOVING = 100
_DAMAGED = 1 << 47  # pages: no counter comes this far


def known_by_vma(snapshot: Snapshot) -> bool:
    """Whether it is known in which VMA they are; else, with --procfs, how many an mm has alone."""
    return "vmas.ksm_zero_pages" not in snapshot.info.get("not_known", {})


def mapped_zero_pages(case: Case) -> Ints:
    """i64 per mm: its mappings of zero pages that ksmd has placed, where VMAs are known to have."""
    vmas, mms = case.snapshot.vmas, len(case.snapshot.processes)
    if not case.rules.counts_zero_pages:
        return np.zeros(mms, np.int64)
    placed = vmas["ksm_zero_pages"].to_numpy().astype(np.int64)
    return np.bincount(vmas["mm_id"].to_numpy(), placed, mms).astype(np.int64)


def counted_zero_pages(case: Case) -> Ints:
    """i64 per mm: what the kernel counts of them (mm_ksm_zero_pages() in include/linux/ksm.h).

    A child of a fork has the count of its parent, also for what fork did not copy (VM_WIPEONFORK).
    Where that is not known, or damaged, the mappings that there are.
    """
    mapped, pages = mapped_zero_pages(case), case.snapshot.processes["ksm_zero_pages"]
    if not case.rules.counts_zero_pages:
        return mapped
    counted = pages.to_numpy(np.int64, na_value=_DAMAGED)
    return np.where((counted > -_DAMAGED) & (counted < _DAMAGED), counted, mapped)


def counts_and_mappings(case: Case) -> tuple[int, int] | None:
    """Where they differ: how many the kernel counts now, and how many there are; None: alike.

    By a hundredth at least: a running system moves while it is read.
    """
    if not known_by_vma(case.snapshot):
        return None
    mapped, of_mms = mapped_zero_pages(case), counted_zero_pages(case)
    mms = case.candidates.mms
    there = int(mapped[mms].sum())
    of_nobody = zero_pages_of_nobody(case)
    apart = int(abs(of_mms - mapped)[mms].sum()) + abs(of_nobody)
    if apart * _MOVING <= there:
        return None
    return int(of_mms[mms].sum()) + of_nobody, there


def zero_pages_of_nobody(case: Case) -> int:
    """What the kernel's ksm_zero_pages has more than the mms together (negative: fewer), and keeps.

    Before "mm/ksm: fix incorrect KSM counter handling in mm_struct during fork" (6.18, and stable
    releases) a child has the count of its parent, and the sum of all does not; where its pages go,
    both are counted down. Only for the whole system: a part is the sum of its mms.
    """
    counted = case.snapshot.info["ksm"].get("counters", {}).get("ksm_zero_pages")
    if counted is None or not (case.rules.counts_zero_pages and case.candidates.mms.all()):
        return 0
    of_all = int(counted)
    return of_all - int(counted_zero_pages(case).sum()) if abs(of_all) < _DAMAGED else 0

"""Which pages of one snapshot have other bytes in another one, and why some can't be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Mask, Numbers, Words, page_keys
from estimator.snapshot.changes import changed_mappings, same_hash, same_place, same_processes
from estimator.snapshot.identity import Identity
from estimator.snapshot.names import vma_labels
from estimator.snapshot.snapshot import Snapshot, mapping_mm

REASONS = (
    "the process is not in B: it ended, or started later",
    "not read in A",
    "not read in B",
    "moved: the same frame is at another address of the process in B",
    "nothing is present at the address in B: swapped out, freed or discarded",
    "the address is not mapped in B: unmapped, or another program by exec()",
)
"""Each page counts for the first that fits."""


@dataclass(frozen=True)
class ChangedContents:
    """What two looks at one system say of the pages of the first, A.

    ``by_vma``: one row per program and VMA label (see ``vma_labels``) with mappings in A: comm,
    label, pages (mappings in A), compared_pages (of these, at the same place of the same process in
    B, and read in both), changed_pages (of these); most changed first. ``not_compared``: the other
    mappings by reason, one of ``REASONS``: reason, pages; most first.
    """

    by_vma: pd.DataFrame
    not_compared: pd.DataFrame


def changed_contents(a: Snapshot, b: Snapshot) -> ChangedContents | None:
    """Which pages of A have other bytes in B; None where that can't be known."""
    if Identity.of(a.info).same_boot(Identity.of(b.info)) is False or not same_hash(a, b):
        return None
    there = same_place(a, b)
    found = changed_mappings(a, b, there)
    comms = a.processes["comm"].to_numpy()[a.vmas["mm_id"].to_numpy()]
    vma = a.mappings["vma_id"].to_numpy()
    of_vma = pd.DataFrame(
        {
            "comm": comms,
            "label": vma_labels(a.vmas),
            "pages": np.bincount(vma, minlength=len(comms)),
            "compared_pages": np.bincount(vma[found.compared], minlength=len(comms)),
            "changed_pages": np.bincount(vma[found.changed], minlength=len(comms)),
        }
    )
    sums = of_vma[of_vma["pages"] > 0].groupby(["comm", "label"], sort=False).sum()
    order = ["changed_pages", "compared_pages"]
    by_vma = sums.sort_values(order, ascending=False, kind="stable").reset_index()
    return ChangedContents(by_vma, _not_compared(a, b, np.flatnonzero(~found.compared), there))


def _not_compared(a: Snapshot, b: Snapshot, left: Ints, there: Numbers) -> pd.DataFrame:
    """Why the rows ``left`` of ``a.mappings`` were not; ``there``: ``same_place(a, b)``."""
    mm = mapping_mm(a)[left]
    mm_in_a = same_processes(a, b)
    fits = [
        ~np.isin(mm, mm_in_a),
        a.frames["unknown"].to_numpy()[a.mappings["frame_id"].to_numpy()[left]] != 0,
        there[left] >= 0,
        np.isin(_owned_frames(a, mm, left), _frames_of(b, mm_in_a)),
        _inside_a_vma(b, mm_in_a, page_keys(mm, _pages_of(a, left))),
    ]
    reason = np.select(fits, range(len(fits)), len(fits))
    pages = np.bincount(reason, minlength=len(REASONS))
    table = pd.DataFrame({"reason": REASONS, "pages": pages})
    table = table[table["pages"] > 0]
    return table.sort_values("pages", ascending=False, kind="stable", ignore_index=True)


def _owned_frames(snapshot: Snapshot, mm: npt.NDArray[Any], rows: Ints) -> Words:
    """The frames that ``rows`` map and the mm that does, as one number each."""
    pfn = snapshot.frames["pfn"].to_numpy()[snapshot.mappings["frame_id"].to_numpy()[rows]]
    return page_keys(mm, pfn.astype(np.uint64))


def _frames_of(b: Snapshot, mm_in_a: Ints) -> Words:
    mm = mm_in_a[mapping_mm(b)]
    rows = np.flatnonzero(mm >= 0)
    return _owned_frames(b, mm[rows], rows)


def _pages_of(snapshot: Snapshot, rows: Ints) -> Words:
    """Where ``rows`` of the mappings are: address >> page shift."""
    vma = snapshot.mappings["vma_id"].to_numpy()[rows]
    size = np.uint64(snapshot.info["kernel"]["page_size"])
    first: Words = snapshot.vmas["start"].to_numpy()[vma] // size
    return first + snapshot.mappings["page_index"].to_numpy()[rows]


def _inside_a_vma(b: Snapshot, mm_in_a: Ints, wanted: Words) -> Mask:
    """Which of the places ``wanted`` lie in a VMA of ``b``, by the mms of A (bool each)."""
    size = np.uint64(b.info["kernel"]["page_size"])
    mm = mm_in_a[b.vmas["mm_id"].to_numpy()]
    known = mm >= 0
    begin, end = (
        page_keys(mm[known], b.vmas[edge].to_numpy()[known] // size) for edge in ("start", "end")
    )
    if not len(begin):
        return np.zeros(len(wanted), np.bool_)
    order = np.argsort(begin)
    before = np.searchsorted(begin[order], wanted, side="right") - 1
    inside: Mask = (before >= 0) & (wanted < end[order][np.maximum(before, 0)])
    return inside

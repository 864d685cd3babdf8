"""What khugepaged can undo and add: bounds of pages_sharing where it runs beside ksmd.

It copies the pages of an aligned block of a VMA, KSM pages among them, to one new folio, and fills
the holes of the block with zeroes (collapse_huge_page() in mm/khugepaged.c). ksmd merges the copies
again: there is no state at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.arrays import Ints, Mask
from estimator.ksm.case import Case
from estimator.ksm.fate import Fate
from estimator.ksm.prediction import Outcome
from estimator.ksm.vm_flags import VALUES
from estimator.snapshot.stored_table import in_pieces

_LEAST_ORDER = 2  # KHUGEPAGED_MIN_MTHP_ORDER


@dataclass(frozen=True)
class Blocks:
    """The blocks of memory that khugepaged may collapse.

    ``mode``: "always", or "madvise" where only VMAs with VM_HUGEPAGE are open to it. ``pages``: i64
    per VMA, the size of the smallest block, 1 where there is none. ``first``, ``end``: i64 per VMA,
    its whole blocks lie between these page indexes.
    """

    mode: str
    pages: Ints
    first: Ints
    end: Ints

    def contain(self, vma: Ints, index: Ints) -> Mask:
        """Bool per page, given by its VMA and its index there."""
        return (index >= self.first[vma]) & (index < self.end[vma])


@dataclass(frozen=True)
class Bounds:
    """The least and the most that pages_sharing can be when ksmd has come round everywhere."""

    mode: str
    least_pages_sharing: int
    most_pages_sharing: int

    def __str__(self) -> str:
        return (
            f"Transparent huge pages are enabled ({self.mode}): khugepaged may collapse again what "
            "ksmd has merged or split, and there is no strict state at rest then. The numbers are "
            "those without khugepaged; with it, pages_sharing moves between "
            f"{self.least_pages_sharing:,} and {self.most_pages_sharing:,}."
        )


def sharing_bounds(case: Case, fate: Fate, sharing: int) -> Bounds | None:
    """``sharing``: pages_sharing without khugepaged. None: there is nothing that it may collapse.

    What lies outside of the blocks stays merged, on nodes that stay. Of a content with a page
    inside, any other may merge, since what khugepaged copies is a frame of its own.
    """
    blocks = _blocks(case)
    if blocks is None:
        return None
    unknown = len(case.contents)  # where content -1 is counted
    items, merged, outside = (np.zeros(unknown + 1, np.int64) for _ in range(3))
    touched = np.zeros(unknown + 1, np.bool_)
    filled = _keeps_zeroes(case)
    holes, last, end = 0, (-1, -1), 0
    for of_rows, some in in_pieces(case.snapshot.mappings, ("vma_id", "page_index")):
        piece = slice(end, end := case.candidates.before(of_rows.stop))
        rows = case.candidates.row_numbers(piece)
        vma, index = (
            some[name].to_numpy()[rows - of_rows.start].astype(np.int64)
            for name in ("vma_id", "page_index")
        )
        inside = blocks.contain(vma, index)
        content = case.contents.of_frame[case.candidates.frame[piece]]
        on_node = fate.outcome[rows] == Outcome.MERGED
        np.add.at(items, content, 1)
        np.add.at(merged, content[on_node], 1)
        np.add.at(outside, content[on_node & ~inside], 1)
        touched[content[inside]] = True
        open_to_holes = inside & filled[vma]
        vma, index = vma[open_to_holes], index[open_to_holes]
        block = (index - blocks.first[vma]) // blocks.pages[vma]
        begins = np.diff(vma, prepend=last[0]) != 0
        begins |= np.diff(block, prepend=last[1]) != 0
        holes += int(blocks.pages[vma[begins]].sum()) - len(vma)
        if len(vma):
            last = int(vma[-1]), int(block[-1])
    nodes = np.bincount(case.contents.of_frame[fate.node] + 1, minlength=unknown + 1)
    nodes = np.roll(nodes, -1)
    least = np.maximum(outside - nodes, 0)[:unknown].sum()
    could = np.where(touched, np.maximum(items - 1 - (merged - nodes), 0), 0)[:unknown].sum()
    swapped = case.snapshot.vmas["swap_pages"].to_numpy()[blocks.end > blocks.first].sum()
    return Bounds(blocks.mode, int(least), sharing + int(could) + holes + int(swapped))


def _blocks(case: Case) -> Blocks | None:
    """Of candidate VMAs; None if there are none.

    thp_vma_allowable_order() in mm/huge_memory.c: what it asks besides can only close more.
    """
    of_all, of_advised = _orders(case)
    vmas, page_bytes = case.snapshot.vmas, np.uint64(case.rules.page_bytes)
    flags = vmas["vm_flags"].to_numpy()
    advised = (flags & VALUES["hugepage"]) != 0
    size = np.where(advised, _least_pages(of_all | of_advised), _least_pages(of_all))
    size[~case.candidates.vmas | ((flags & VALUES["nohugepage"]) != 0)] = 0
    start = (vmas["start"].to_numpy() // page_bytes).astype(np.int64)
    end = (vmas["end"].to_numpy() // page_bytes).astype(np.int64)
    pages = np.maximum(size, 1)
    first, last = -(-start // pages) * pages - start, end // pages * pages - start
    has_some = (size > 0) & (first < last)
    if not has_some.any():
        return None
    last[~has_some] = first[~has_some]
    return Blocks("always" if of_all else "madvise", pages, first, last)


def _orders(case: Case) -> tuple[int, int]:
    """The orders (bit n: order n) that it collapses to: in all VMAs, in VMAs with VM_HUGEPAGE.

    hugepage_pmd_enabled() and anon_hpage_enabled() in mm/khugepaged.c, thp_vma_allowable_order().
    """
    info = case.snapshot.info
    of_all, modes = info.get("thp_enabled"), info.get("thp_orders")
    huge_page = 1 << case.rules.page_bytes.bit_length() - 4  # entries of a page table
    if modes is None:
        return huge_page * (of_all == "always"), huge_page * (of_all == "madvise")
    collapsed = huge_page
    if info["features"].get("khugepaged_any_order"):
        collapsed |= huge_page - (1 << _LEAST_ORDER)
    always, madvise = (
        (modes[mode] | (modes["inherit"] if of_all == mode else 0)) & collapsed
        for mode in ("always", "madvise")
    )
    return always, madvise


def _least_pages(orders: int) -> int:
    """The size of the smallest block in pages; 0: no order."""
    return orders & -orders


def _keeps_zeroes(case: Case) -> Mask:
    """Bool per VMA: zeroes that fill a hole can merge; else a split maps the zero page instead."""
    if not case.rules.split_maps_zero_page:
        return np.ones(len(case.snapshot.vmas), np.bool_)
    locked: Mask = case.snapshot.vmas["locked"].to_numpy()
    return locked

"""Pages mapped, as read from page tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Words, pieces

FRAME_FACTS = {
    "ok": np.bool_,
    "hash": np.uint64,
    "unknown": np.uint8,
    "kind": np.uint8,
    "flags": np.uint32,
    "order": np.uint8,
    "head_pfn": np.uint64,
    "node": np.uint16,
    "mapcount": np.int32,
    "refcount": np.int32,
    "folio_mapcount": np.int32,
}
"""What is found out about a frame. ``ok``: it was read. ``kind``: 0 if it is not collected."""


_SPARSE = 16  # a table of all PFNs is made if one in so many is used


@dataclass(frozen=True)
class Mapped:
    """One row per page mapped, by VMA and address.

    ``vma_id``: u32. ``page_index``, ``pfn``: u64. ``flags``: u8, ``MappingFlag``. ``counts``: of
    the pages that map nothing, u64 per VMA by column of ``vmas``. ``first_page``: u64 per VMA, see
    ``first_pages``.
    """

    vma_id: npt.NDArray[np.uint32]
    page_index: Words
    pfn: Words
    flags: npt.NDArray[np.uint8]
    counts: dict[str, Words]
    first_page: Words

    @property
    def key(self) -> Words:
        """VMA and page as one ascending number."""
        return self.first_page[self.vma_id] + self.page_index

    def keep(self, rows: npt.NDArray[np.bool_]) -> Mapped:
        """The rows where ``rows`` is true."""
        return Mapped(
            self.vma_id[rows],
            self.page_index[rows],
            self.pfn[rows],
            self.flags[rows],
            self.counts,
            self.first_page,
        )

    def of_vmas(self, vmas: npt.NDArray[np.bool_]) -> Mapped:
        """The rows of the VMAs where ``vmas`` is true; these are numbered anew."""
        kept = self.keep(vmas[self.vma_id])
        number = (np.cumsum(vmas) - 1).astype(np.uint32)
        counts = {name: pages[vmas] for name, pages in self.counts.items()}
        return Mapped(
            number[kept.vma_id],
            kept.page_index,
            kept.pfn,
            kept.flags,
            counts,
            self.first_page[vmas],
        )


def first_pages(start: Words, end: Words) -> Words:
    """u64: how many pages the VMAs before each one have; they are of the pages [start, end)."""
    return np.cumsum(end - start) - (end - start)


def distinct(pfns: Words) -> Words:
    """The distinct PFNs, ascending."""
    first, span = _span(pfns)
    if span > _SPARSE * len(pfns):
        ordered = np.sort(pfns)
        return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(pfns) else ordered
    used = np.zeros(span, np.bool_)
    for piece in pieces(len(pfns)):
        used[_place(pfns[piece], first)] = True
    found: Words = np.flatnonzero(used).view(np.uint64)
    found += np.uint64(first)
    return found


def rows_of(pfns: Words, wanted: Words) -> npt.NDArray[np.int64]:
    """The row in ``pfns`` (ascending, distinct) of each of ``wanted``, all of them in it."""
    return look_up(pfns, np.arange(len(pfns)), wanted)


def first_mappings(pfns: Words, mapped: Mapped) -> npt.NDArray[np.int64]:
    """The first row of ``mapped`` that maps each of the frames ``pfns``; -1 if none does."""
    mappings = np.flatnonzero(np.isin(mapped.pfn, pfns))
    row = rows_of(pfns, mapped.pfn[mappings])
    first = np.full(len(pfns), -1)
    first[row[::-1]] = mappings[::-1]
    return first


def look_up(pfns: Words, values: npt.NDArray[Any], wanted: Words) -> npt.NDArray[Any]:
    """The value that belongs to each of the PFNs ``wanted``, all of them in ``pfns``, ascending."""
    first, span = _span(pfns)
    if span > _SPARSE * max(len(wanted), 1):
        return values[np.searchsorted(pfns, wanted)]
    table, found = np.zeros(span, values.dtype), np.empty(len(wanted), values.dtype)
    for piece in pieces(len(pfns)):
        table[_place(pfns[piece], first)] = values[piece]
    for piece in pieces(len(wanted)):
        found[piece] = table[_place(wanted[piece], first)]
    return found


def _place(pfns: Words, first: int) -> npt.NDArray[np.int64]:
    return (pfns - np.uint64(first)).view(np.int64)


def _span(pfns: Words) -> tuple[int, int]:
    if not len(pfns):
        return 0, 0
    return int(pfns.min()), int(pfns.max()) - int(pfns.min()) + 1

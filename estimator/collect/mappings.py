"""Pages mapped, as read from page tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Bytes, Mask, Words, find, pieces
from estimator.collect.by_pfn import ByPfn, span_of
from estimator.packed import Packed

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


_SPARSE = 8  # a table of all PFNs is made if one in so many is used
_NO_ROW = 0xFFFF_FFFF


@dataclass(frozen=True)
class Rows:
    """Some rows of ``Mapped``, as arrays."""

    vma_id: npt.NDArray[np.uint32]
    page_index: Words
    pfn: Words
    flags: Bytes

    def __len__(self) -> int:
        return len(self.pfn)

    def __getitem__(self, which: Any) -> Rows:
        if isinstance(which, np.ndarray) and which.dtype == np.bool_ and which.all():
            return self
        return Rows(*(column[which] for column in vars(self).values()))


@dataclass(frozen=True)
class Mapped:
    """One row per page mapped, by VMA and address.

    ``counts``: of the pages that map nothing, u64 per VMA by column of ``vmas``. ``first_page``:
    u64 per VMA, see ``first_pages``. The columns are those of ``Rows``: ``vma_id`` u32,
    ``page_index`` and ``pfn`` u64, ``flags`` u8, ``MappingFlag``.
    """

    counts: dict[str, Words]
    first_page: Words
    vma_id: Packed = field(default_factory=lambda: Packed(np.uint32))
    page_index: Packed = field(default_factory=lambda: Packed(np.uint64))
    pfn: Packed = field(default_factory=lambda: Packed(np.uint64))
    flags: Packed = field(default_factory=lambda: Packed(np.uint8))

    def __len__(self) -> int:
        return len(self.pfn)

    def append(self, rows: Rows) -> None:
        """Add rows behind the others."""
        for column, values in zip(self._columns(), vars(rows).values(), strict=True):
            column.append(values)

    def pieces(self) -> Iterator[Rows]:
        """All rows, some thousands at a time."""
        for columns in zip(*(column.pieces() for column in self._columns()), strict=True):
            yield Rows(*columns)

    def used_up(self) -> Iterator[Rows]:
        """The same; what was given is no longer there."""
        for columns in zip(*(column.drained() for column in self._columns()), strict=True):
            yield Rows(*columns)

    def key(self, rows: Rows) -> Words:
        """VMA and page as one number, which goes up from row to row."""
        return self.first_page[rows.vma_id] + rows.page_index

    def keep(self, masks: Iterable[Mask]) -> Mapped:
        """The rows where ``masks``, one for each piece, are true; the others are used up."""
        kept = Mapped(self.counts, self.first_page)
        for rows, mask in zip(self.used_up(), masks, strict=True):
            kept.append(rows[mask])
        return kept

    def of_vmas(self, vmas: Mask) -> Mapped:
        """The rows of the VMAs where ``vmas`` is true, numbered anew; the others are used up."""
        if vmas.all():
            return self
        number = (np.cumsum(vmas) - 1).astype(np.uint32)
        counts = {name: pages[vmas] for name, pages in self.counts.items()}
        kept = Mapped(counts, self.first_page[vmas])
        for rows in self.used_up():
            there = rows[vmas[rows.vma_id]]
            kept.append(Rows(number[there.vma_id], there.page_index, there.pfn, there.flags))
        return kept

    def _columns(self) -> tuple[Packed, ...]:
        return self.vma_id, self.page_index, self.pfn, self.flags


def first_pages(start: Words, end: Words) -> Words:
    """u64: how many pages the VMAs before each one have; they are of the pages [start, end)."""
    return np.cumsum(end - start) - (end - start)


def distinct(pfns: Words) -> Words:
    """The distinct PFNs, ascending."""
    return distinct_of(Packed.of(pfns), [pfns])[:]


def distinct_of(pfns: Packed, parts: Iterable[Words] | None = None) -> Packed:
    """The distinct PFNs, ascending; ``parts``: arrays with only some of the rows of ``pfns``."""
    parts = pfns.pieces() if parts is None else parts
    found = Packed(np.uint64)
    first, span = span_of(pfns)
    if span > _SPARSE * len(pfns):
        rows: Words = np.concatenate([np.empty(0, np.uint64), *parts])
        rows.sort()
        found.append(rows[np.append(True, rows[1:] != rows[:-1])[: len(rows)]])
        return found
    used = np.zeros(span, np.bool_)
    for part in parts:
        used[part - np.uint64(first)] = True
    for piece in pieces(span):
        found.append(np.flatnonzero(used[piece]).view(np.uint64) + np.uint64(first + piece.start))
    return found


def first_mappings(pfns: Packed, mapped: Mapped) -> Iterator[Rows]:
    """Of each of the frames ``pfns`` the first row of ``mapped`` that maps it, in their order."""
    first, begin = ByPfn(pfns, np.uint32, _NO_ROW), 0
    for rows in mapped.pieces():
        number = np.arange(begin, begin + len(rows), dtype=np.uint32)
        begin += len(rows)
        wanted = first.has(rows.pfn)
        wanted[wanted] = first.of(rows.pfn[wanted]) == _NO_ROW
        pfn, number = rows.pfn[wanted], number[wanted]
        first.put(pfn[::-1], number[::-1])
        wanted[wanted] = first.of(pfn) == number
        yield rows[wanted]


def same_frames(
    earlier: Iterator[tuple[Words, Words]], later: Iterator[tuple[Words, Words]]
) -> Iterator[Mask]:
    """Which rows of ``later`` map the frame that they map in ``earlier``, piece by piece.

    Both are pieces of ``Mapped.key``, ascending, with the PFN of each.
    """
    key, pfn = np.empty(0, np.uint64), np.empty(0, np.uint64)
    for wanted, wanted_pfn in later:
        over = np.searchsorted(key, wanted[:1])[0] if len(wanted) else 0
        key, pfn = key[over:], pfn[over:]
        while len(wanted) and (not len(key) or key[-1] < wanted[-1]):
            if (more := next(earlier, None)) is None:
                break
            key, pfn = np.concatenate([key, more[0]]), np.concatenate([pfn, more[1]])
        if np.array_equal(key[: len(wanted)], wanted):  # nothing came and went, as mostly
            yield pfn[: len(wanted)] == wanted_pfn
            continue
        row, same = find(key, wanted)
        same[same] = pfn[row] == wanted_pfn[same]
        yield same

"""Page tables as arrays: all mms level by level, a table at a time, of any architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from drgn import Program

from estimator.arrays import Ints, Mask, Words, page_keys
from estimator.kernel.arch import ENTRY_SHIFT, Entries, page_table_format
from estimator.kernel.memory import Memory
from estimator.kernel.memory.intervals import met_first

_ZERO = np.uint64(0)
_ENTRIES_AT_ONCE = 1 << 17  # 1 MiB


@dataclass(frozen=True)
class Ranges:
    """Address ranges of many mms in one order: see ``page_keys``.

    ``start`` and ``end`` (exclusive): u64 (n,), ascending and disjoint. ``hugetlb``: bool (n,), of
    hugetlb VMAs; None: there is none.
    """

    start: Words
    end: Words
    hugetlb: Mask | None = None

    def find(self, key: Words) -> tuple[Ints, Ints]:
        """The rows of the ascending keys that are in a range, and the range of each of these."""
        if not len(key):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        near = slice(
            int(np.searchsorted(self.end, key[0], side="right")),
            int(np.searchsorted(self.start, key[-1], side="right")),
        )
        first, last = (np.searchsorted(key, edge[near]) for edge in (self.start, self.end))
        which, rows = _counted_up(first, last)
        return rows, which + near.start

    def slots(self, key: Words, shift: np.uint64, slots: int) -> tuple[Ints, Words]:
        """The slots of the tables at ``key`` that meet a range: row of the table, key of the slot.

        A slot stands for 1 << ``shift`` pages, a table has ``slots``. ``key`` ascends.
        """
        pages = np.uint64(slots) << shift
        table, which = _counted_up(
            np.searchsorted(self.end, key, side="right"),
            np.searchsorted(self.start, key + pages, side="left"),
        )
        first = np.maximum(self.start[which], key[table]) >> shift
        last = (np.minimum(self.end[which], key[table] + pages) - np.uint64(1)) >> shift
        first[1:] += first[1:] == last[:-1]  # which has it already
        row, slot = _counted_up(first.astype(np.int64), last.astype(np.int64) + 1)
        return table[row], slot.astype(np.uint64) << shift

    def in_hugetlb(self, key: Words) -> Mask:
        """Which of the ascending keys are in a hugetlb VMA."""
        found = np.zeros(len(key), np.bool_)
        if self.hugetlb is not None and self.hugetlb.any():
            rows, which = self.find(key)
            found[rows] = self.hugetlb[which]
        return found

    def count(self, start: Words, pages: np.uint64) -> Ints:
        """How many pages of each range lie in the key ranges [start, start + pages); i64."""
        counts = np.zeros(len(self.start), np.int64)
        for begin in start.tolist():
            end = begin + int(pages)
            first = int(np.searchsorted(self.end, np.uint64(begin), side="right"))
            last = int(np.searchsorted(self.start, np.uint64(end), side="left"))
            for index in range(first, last):
                lower, upper = max(begin, int(self.start[index])), min(end, int(self.end[index]))
                counts[index] += upper - lower
        return counts


@dataclass(frozen=True)
class Leaves:
    """Leaf tables, and huge entries, which stand for a table: entry and key, u64 (n,), and which.

    ``huge``: bool (n,).
    """

    key: Words
    value: Words
    huge: Mask


class PageTables:
    """The page tables of many mms.

    ``unreadable_pages`` and ``nonpresent_pages``, i64 per range, are filled on the way: pages
    whose table could not be read, and pages of huge entries that are not present.
    """

    def __init__(self, prog: Program, memory: Memory, ranges: Ranges) -> None:
        self._memory = memory
        self._ranges = ranges
        self._format = page_table_format(prog)
        self.unreadable_pages = np.zeros(len(ranges.start), np.int64)
        self.nonpresent_pages = np.zeros(len(ranges.start), np.int64)

    def leaves(self, mms: Words, pgd: Words) -> Leaves:
        """The leaf tables in the ranges of the mms with the key prefixes ``mms``, in key order.

        ``pgd``: u64, the physical addresses of their top-level tables, which need not begin a page.
        ``mms`` ascends.
        """
        key, table = page_keys(mms, np.zeros_like(mms)), pgd
        seen = set(table.tolist())
        gigantic = np.empty(0, np.uint64), np.empty(0, np.uint64)
        for level in range(self._format.levels - 1, 1, -1):
            key, value = self._descend(key, table, level)
            gigantic = self._gigantic(key, value)  # of the last round: 1 GiB
            is_table = self._format.is_table(value)
            key, table = key[is_table], self._format.table_address(value[is_table])
            key, table = self._unseen(seen, key, table, level)
        key, value = self._descend(key, table, 1)
        if len(gigantic[0]):
            key, value = np.append(key, gigantic[0]), np.append(value, gigantic[1])
            order = np.argsort(key)
            key, value = key[order], value[order]
        huge = self._format.is_huge(value)
        gone = ~huge & self._format.is_absent(value)
        self.nonpresent_pages += self._ranges.count(key[gone], np.uint64(self._format.entries))
        tables = ~huge & ~gone
        table_key, table = key[tables], self._format.table_address(value[tables])
        once, _ = self._unseen(seen, table_key, table, 1)
        wanted = huge | (tables & np.isin(key, once, assume_unique=True))
        return Leaves(key[wanted], value[wanted], huge[wanted])

    def entries(self, leaves: Leaves) -> Iterator[Entries]:
        """All entries of ``leaves`` that are in a range and not empty, in key order."""
        tables = _ENTRIES_AT_ONCE // self._format.entries
        for start in range(0, len(leaves.key), tables):
            rows = slice(start, start + tables)
            yield self._entries(leaves.key[rows], leaves.value[rows], leaves.huge[rows])

    def _gigantic(self, key: Words, value: Words) -> tuple[Words, Words]:
        """The leaves above the last two levels, as entries of one level below: key, value.

        Only where a hugetlb VMA has the first page: no anonymous page is mapped so.
        """
        leaf = self._format.is_huge(value) & self._ranges.in_hugetlb(key)
        pages = np.arange(self._format.entries, dtype=np.uint64) << np.uint64(
            self._format.bits_per_level
        )
        pieces = self._format.gigantic_pieces(value[leaf])
        return (key[leaf][:, None] + pages).reshape(-1), pieces.reshape(-1)

    def _unseen(self, seen: set[int], key: Words, table: Words, level: int) -> tuple[Words, Words]:
        """Leave out and count tables met before: damaged ones may lead back to themselves.

        Those of shared hugetlb memory are met once per mm (huge_pmd_share() in mm/hugetlb.c).
        """
        new = met_first(seen, table) | self._ranges.in_hugetlb(key)
        pages = np.uint64(1) << np.uint64(self._format.bits_per_level * level)
        self.unreadable_pages += self._ranges.count(key[~new], pages)
        return key[new], table[new]

    def _descend(self, key: Words, table: Words, level: int) -> tuple[Words, Words]:
        """Keys and values of the non-empty entries, in a range, of tables at ``level``.

        Of these tables few entries are used: only they are read.
        """
        shift = np.uint64(self._format.bits_per_level * level)
        row, at = self._ranges.slots(key, shift, self._format.entries)
        slot = (at >> shift) & np.uint64(self._format.entries - 1)
        value, ok = self._memory.words(table[row] + (slot << ENTRY_SHIFT))
        if not ok.all():
            self._lose(key[np.unique(row[~ok])], shift)
        self._format.clear_encryption(value)
        there = ok & (value != _ZERO)
        return at[there], value[there]

    def _tables(self, key: Words, table: Words) -> Words:
        """The entries of leaf tables, u64 (n, entries); unreadable ones are counted and empty."""
        data, unknown = self._memory.frames(table >> self._format.page_shift)
        entries: Words = data.view(np.uint64)
        self._format.clear_encryption(entries)
        bad = unknown != 0
        if bad.any():
            entries[bad] = 0
            self._lose(key[bad], _ZERO)
        return entries

    def _lose(self, key: Words, shift: np.uint64) -> None:
        """Count the tables at ``key``, whose entries stand for 1 << ``shift`` pages each."""
        pages = np.uint64(self._format.entries) << shift
        self.unreadable_pages += self._ranges.count(key, pages)

    def _entries(self, key: Words, value: Words, huge: Mask) -> Entries:
        tables = ~huge
        entries = self._tables(key[tables], self._format.table_address(value[tables]))
        if huge.any():
            read, entries = entries, np.empty((len(key), self._format.entries), np.uint64)
            entries[tables], entries[huge] = read, self._format.pieces(value[huge])
        flat = entries.reshape(-1)
        place = np.flatnonzero(flat != _ZERO)  # five times faster than of numbers
        row = place >> self._format.bits_per_level
        at = key[row] + (place & (self._format.entries - 1)).astype(np.uint64)
        inside, range_index = self._ranges.find(at)
        if len(inside) < len(at):
            row, at, place = row[inside], at[inside], place[inside]
        found, of_huge = flat[place], huge[row]
        self._format.turn_upright(found, of_huge)
        return self._format.of_leaves(at, range_index, found, of_huge)


def _counted_up(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """All numbers from ``first`` on and before ``last``, pair by pair: the row of the pair, number.

    A pair may be empty.
    """
    count = last - first
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) + (first - (np.cumsum(count) - count))[row]

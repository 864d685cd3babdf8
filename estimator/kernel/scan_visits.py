"""How often full scans have come to pages that ksmd has not merged: what smart_scan goes by.

Sources: should_skip_rmap_item() and skip_age() in mm/ksm.c, 6.7+ (5e924ff54d08).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import dropwhile

import numpy as np
from drgn import Program

from estimator.arrays import Bytes, Columns, Ints, Words, page_keys
from estimator.collect.tables import Table
from estimator.kernel.layout import first_type, has_member, offset
from estimator.kernel.memory import Memory
from estimator.kernel.mm_slots import Cursor, MmSlot, cursor, mm_slots
from estimator.packed import Packed, side_by_side
from estimator.snapshot.flags import AHEAD, OLD_VISITS, SKIPPING_SCANS

_STABLE_FLAG = 0x200  # of rmap_item.address
_CHUNK_SHIFT = 12
_CHUNK_BYTES = 1 << _CHUNK_SHIFT
_MOST_CHUNKS = 512  # held, 20 KiB each: items that were made one after the other stand together
_LIST_WALKS = 3  # on a running system


@dataclass(frozen=True)
class Visits:
    """Runs of pages that full scans came to as often: ``page_keys`` of the first one, u64, in
    ascending order; how many ``pages``, i64; and the ``visits``, u8, see ``schema``.

    ``ahead``: the first key that the current full scan has still to come to, and the one behind
    the last; None between two scans. ``unreadable``: lists that were not read to their end.
    """

    first: Words
    pages: Ints
    visits: Bytes
    ahead: tuple[int, int] | None
    unreadable: int


def read_visits(prog: Program, memory: Memory, mms: Words) -> Visits | None:
    """Of the mm_structs at ``mms``, in mm_id order. None where no rmap_item has an age."""
    type_ = first_type(prog, "struct ksm_rmap_item", "struct rmap_item")
    if not has_member(prog, type_, "age"):
        return None
    mm_ids = {mm: mm_id for mm_id, mm in enumerate(mms.tolist())}
    slots, at = mm_slots(prog), cursor(prog)
    reader, unreadable = _Reader(prog, memory, type_), 0
    runs = [(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint8))]
    for slot in slots:
        if slot.mm in mm_ids:
            addresses, visits, whole = reader.items(slot)
            unreadable += not whole
            page = addresses >> np.uint64(memory.page_shift)
            runs.append(_runs_of(mm_ids[slot.mm], page, visits))
    columns = [np.concatenate(column) for column in zip(*runs, strict=True)]
    order = np.argsort(columns[0])
    first, pages, visits = (column[order] for column in columns)
    return Visits(first, pages, visits, _ahead(at, slots, mm_ids, memory.page_shift), unreadable)


def add_visits(mappings: Table, vmas: Columns, visits: Visits, page_shift: int) -> None:
    """Add the column ``visits``, unless no full scan has come to any page."""
    if not len(visits.first) and visits.ahead is None:
        return
    start = page_keys(vmas["mm_id"], vmas["start"] >> np.uint64(page_shift))
    column = Packed(np.uint8)
    some = {name: mappings[name] for name in ("vma_id", "page_index")}
    for rows in side_by_side(some):
        column.append(_of_pages(visits, start[rows["vma_id"]] + rows["page_index"]))
    mappings["visits"] = column


def _of_pages(visits: Visits, keys: Words) -> Bytes:
    found = np.zeros(len(keys), np.uint8)
    if len(visits.first):
        run = np.searchsorted(visits.first, keys, side="right") - 1
        inside = (run >= 0) & (keys - visits.first[run] < visits.pages[run].astype(np.uint64))
        found[inside] = visits.visits[run[inside]]
    if visits.ahead is not None:
        begin, end = visits.ahead
        found[(keys >= np.uint64(begin)) & (keys < np.uint64(end))] |= np.uint8(AHEAD)
    return found


def _ahead(
    at: Cursor, slots: list[MmSlot], mm_ids: dict[int, int], page_shift: int
) -> tuple[int, int] | None:
    """The mms on the list have the first mm_ids, in its order."""
    from_cursor = dropwhile(lambda slot: slot.address != at.slot, slots)
    ahead = [slot for slot in from_cursor if slot.mm in mm_ids]
    if not ahead:
        return None
    page = at.address >> page_shift if ahead[0].address == at.slot else 0
    ends = np.array([mm_ids[ahead[0].mm], mm_ids[ahead[-1].mm] + 1])
    begin, end = page_keys(ends, np.array([page, 0], np.uint64)).tolist()
    return begin, end


def _runs_of(mm_id: int, page: Words, visits: Bytes) -> tuple[Words, Ints, Bytes]:
    """``first``, ``pages`` and ``visits`` of ``Visits``, of the pages of an mm, ascending."""
    new = (page[1:] != page[:-1] + np.uint64(1)) | (visits[1:] != visits[:-1])
    begin = np.flatnonzero(np.append(True, new)[: len(page)])
    keys = page_keys(np.full(len(begin), mm_id), page[begin])
    return keys, np.diff(np.append(begin, len(page))), visits[begin]


class _Reader:
    """Follows lists a word at a time: with many millions of items each step counts."""

    def __init__(self, prog: Program, memory: Memory, type_: str) -> None:
        self._memory = memory
        names = ("rmap_list", "mm", "address", "age", "remaining_skips")
        self._offsets = [offset(prog, type_, name) for name in names]
        self._words = (max(self._offsets) >> 3) + 1
        self._first = offset(prog, prog["ksm_mm_head"].type_, "rmap_list")
        self._chunks: dict[int, list[int]] = {}

    def items(self, slot: MmSlot) -> tuple[Words, Bytes, bool]:
        """Address and visits of each rmap_item of ``slot`` that is on no stable node, in order.

        And whether the list was read to its end.
        """
        longest, whole = (array("Q"), array("Q")), False
        for _ in range(_LIST_WALKS if self._memory.moving else 1):
            self._chunks.clear()
            found, whole = self._walk(slot)
            if whole or len(found[0]) > len(longest[0]):
                longest = found
            if whole:
                break
        addresses, ages = (np.array(column, np.uint64) for column in longest)
        return addresses, self._visits(ages), whole

    def _walk(self, slot: MmSlot) -> tuple[tuple[array[int], array[int]], bool]:
        """Addresses and the words with the ages."""
        following, of_mm, of_address, of_age, _ = (at >> 3 for at in self._offsets)
        last_word = (_CHUNK_BYTES >> 3) - self._words
        found = addresses, ages = array("Q"), array("Q")
        words = self._words_at(slot.address + self._first, 1)
        if words is None:
            return found, False
        item, before, mm, here = words[0], -1, slot.mm, -1
        while item:
            at = (item & (_CHUNK_BYTES - 1)) >> 3
            if item >> _CHUNK_SHIFT != here or at > last_word or item & 7:
                words, at, here = self._read(item)
                if words is None:
                    return found, False
            address = words[at + of_address]
            if words[at + of_mm] != mm or address <= before:
                return found, False
            before = address | (_CHUNK_BYTES - 1)
            if not address & _STABLE_FLAG:
                addresses.append(address)
                ages.append(words[at + of_age])
            item = words[at + following]
        return found, True

    def _read(self, item: int) -> tuple[list[int] | None, int, int]:
        """The words around ``item``, its place among them, and where they are good for others.

        None: it can't be read.
        """
        at, number = (item & (_CHUNK_BYTES - 1)) >> 3, item >> _CHUNK_SHIFT
        if item & 7:
            return None, 0, -1
        if at + self._words > _CHUNK_BYTES >> 3:
            return self._words_at(item, self._words), 0, -1
        words = self._chunks.get(number)
        if words is None:
            words = self._words_at(number << _CHUNK_SHIFT, _CHUNK_BYTES >> 3)
            if words is not None:
                if len(self._chunks) >= _MOST_CHUNKS:
                    self._chunks.clear()
                self._chunks[number] = words
        return words, at, number

    def _words_at(self, address: int, count: int) -> list[int] | None:
        data = np.empty(count * 8, np.uint8)
        (plain,) = self._memory.untagged(np.array([address], np.uint64)).tolist()
        if not self._memory.virtual_run(plain, data):
            return None
        words: list[int] = data.view(np.uint64).tolist()
        return words

    def _visits(self, words: Words) -> Bytes:
        """Of the words with the ages.

        The age goes up with each visit, up to 255, and tells it until skip_age() says 8 each time.
        From then on a page is looked at when its remaining_skips have come down to 0.
        """
        ages, skips = (
            (words >> np.uint64((at & 7) * 8)).astype(np.uint8) for at in self._offsets[3:]
        )
        gone = SKIPPING_SCANS - 1 - np.minimum(skips, SKIPPING_SCANS - 1)
        return np.where(ages < OLD_VISITS, ages, OLD_VISITS + gone).astype(np.uint8)

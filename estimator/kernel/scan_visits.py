"""How often full scans have come to pages that ksmd has not merged: what smart_scan goes by.

Sources: should_skip_rmap_item() and skip_age() in mm/ksm.c, 6.7+ (5e924ff54d08).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from drgn import Program

from estimator.arrays import Bytes, Columns, Ints, Words, page_keys
from estimator.collect.tables import Table
from estimator.kernel.layout import first_type, has_member, offset
from estimator.kernel.memory import Memory
from estimator.kernel.mm_slots import Cursor, MmSlot, cursor, first_item, mm_slots
from estimator.packed import Packed, side_by_side
from estimator.snapshot.flags import AHEAD, OLD_VISITS, SKIPPING_SCANS

_STABLE_FLAG = 0x200  # of rmap_item.address
_CHUNK_SHIFT = 12
_CHUNK_BYTES = 1 << _CHUNK_SHIFT
_MOST_CHUNKS = 4096  # held: 16 MiB
_LIST_WALKS = 3  # on a running system


_Chunk = tuple[memoryview, memoryview]
"""Bytes, and the same as words."""


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


def read_visits(prog: Program, memory: Memory, mms: Words, scan_order: Ints) -> Visits | None:
    """Of the mm_structs at ``mms``, in mm_id order; ``scan_order``: that of ``processes``.

    None where this kernel's rmap_items have no age.
    """
    type_ = first_type(prog, "struct ksm_rmap_item", "struct rmap_item")
    if not has_member(prog, type_, "age"):
        return None
    slots, at = mm_slots(prog), cursor(prog)
    mm_ids = {int(mm): mm_id for mm_id, mm in enumerate(mms.tolist())}
    reader, unreadable, runs = _Reader(prog, memory, type_), 0, _Runs(memory.page_shift)
    for slot in slots:
        if slot.mm in mm_ids:
            addresses, visits, whole = reader.items(slot)
            unreadable += not whole
            runs.add(mm_ids[slot.mm], addresses, visits)
    ahead = _ahead(at, slots, scan_order, memory.page_shift)
    return Visits(*runs.columns(), ahead, unreadable)


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
    at: Cursor | None, slots: list[MmSlot], scan_order: Ints, page_shift: int
) -> tuple[int, int] | None:
    """mm_ids are in the order of the scan, those that are on no list behind the others."""
    places = [place for place, slot in enumerate(slots) if at and slot.address == at.slot]
    if at is None or not places:
        return None
    listed = int(np.count_nonzero(scan_order >= 0))
    mm_id = int(np.count_nonzero((scan_order >= 0) & (scan_order < places[0])))
    here = mm_id < listed and int(scan_order[mm_id]) == places[0]
    page = at.address >> page_shift if here else 0
    begin, end = page_keys(np.array([mm_id, listed]), np.array([page, 0], np.uint64)).tolist()
    return begin, end


class _Reader:
    def __init__(self, prog: Program, memory: Memory, type_: str) -> None:
        self._prog, self._memory = prog, memory
        names = ("rmap_list", "mm", "address", "age", "remaining_skips")
        self._offsets = [offset(prog, type_, name) for name in names]
        self._bytes = (max(self._offsets) | 7) + 1
        self._chunks: dict[int, _Chunk] = {}

    def items(self, slot: MmSlot) -> tuple[Words, Bytes, bool]:
        """Address and visits of each rmap_item of ``slot`` that is on no stable node, in order.

        And whether the list was read to its end.
        """
        longest, whole = (array("Q"), bytearray()), False
        for _ in range(_LIST_WALKS if self._memory.moving else 1):
            self._chunks.clear()
            found, whole = self._walk(slot)
            if whole or len(found[1]) > len(longest[1]):
                longest = found
            if whole:
                break
        return np.array(longest[0], np.uint64), np.frombuffer(longest[1], np.uint8), whole

    def _walk(self, slot: MmSlot) -> tuple[tuple[array[int], bytearray], bool]:
        following, of_mm, of_address, of_age, of_skips = self._offsets
        found = addresses, visits = array("Q"), bytearray()
        item, before = first_item(self._prog, slot), -1
        while item:
            chunk, at = self._chunk(item)
            if chunk is None:
                return found, False
            data, words = chunk
            address = words[at + of_address >> 3]
            page = address >> _CHUNK_SHIFT
            if words[at + of_mm >> 3] != slot.mm or page <= before:
                return found, False
            before = page
            if not address & _STABLE_FLAG:
                addresses.append(address)
                visits.append(_visits(data[at + of_age], data[at + of_skips]))
            item = words[at + following >> 3]
        return found, True

    def _chunk(self, item: int) -> tuple[_Chunk | None, int]:
        """What is read around ``item``, and its place there; None: it can't be read."""
        at = item & (_CHUNK_BYTES - 1)
        if item & 7:
            return None, 0
        if at + self._bytes > _CHUNK_BYTES:
            return self._read(item, self._bytes), 0
        number = item >> _CHUNK_SHIFT
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._read(number << _CHUNK_SHIFT, _CHUNK_BYTES)
            if chunk is not None:
                if len(self._chunks) >= _MOST_CHUNKS:
                    self._chunks.clear()
                self._chunks[number] = chunk
        return chunk, at

    def _read(self, address: int, size: int) -> _Chunk | None:
        data = np.empty(size, np.uint8)
        (plain,) = self._memory.untagged(np.array([address], np.uint64)).tolist()
        if not self._memory.virtual_run(plain, data):
            return None
        return data.data, data.data.cast("Q")


def _visits(age: int, remaining_skips: int) -> int:
    """The age goes up with each visit, up to 255, and tells it until skip_age() says 8 each time.

    From then on a page is looked at when its remaining_skips have come down to 0.
    """
    if age < OLD_VISITS:
        return age
    return OLD_VISITS + max(SKIPPING_SCANS - 1 - remaining_skips, 0)


class _Runs:
    def __init__(self, page_shift: int) -> None:
        self._page_shift = page_shift
        self._parts: list[tuple[Words, Ints, Bytes]] = []

    def add(self, mm_id: int, addresses: Words, visits: Bytes) -> None:
        """Add the pages of an mm, in ascending order."""
        if not len(visits):
            return
        page = addresses >> np.uint64(self._page_shift)
        new = np.append(True, (page[1:] != page[:-1] + np.uint64(1)) | (visits[1:] != visits[:-1]))
        begin = np.flatnonzero(new)
        pages = np.diff(np.append(begin, len(page)))
        keys = page_keys(np.full(len(begin), mm_id), page[begin])
        self._parts.append((keys, pages, visits[begin]))

    def columns(self) -> tuple[Words, Ints, Bytes]:
        """``first``, ``pages`` and ``visits`` of ``Visits``."""
        none = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint8)
        parts = [none, *self._parts]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(columns[0])
        first, pages, visits = (column[order] for column in columns)
        return first, pages, visits

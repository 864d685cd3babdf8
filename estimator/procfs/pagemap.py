"""What is mapped where, from /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns, Ints, Mask, Words, in_turn
from estimator.collect.limits import is_own_limit
from estimator.collect.mappings import Mapped, Rows, first_pages
from estimator.packed import Packed
from estimator.procfs.page_size import HUGE_PAGES, PAGE_SHIFT
from estimator.procfs.processes import PROC, Process
from estimator.snapshot.flags import MappingFlag

_PRESENT, _SWAP, _FILE, _EXCLUSIVE = (np.uint64(1 << bit) for bit in (63, 62, 61, 56))
_PFN = np.uint64((1 << 55) - 1)
_PIECE_PAGES = 1 << 18  # 2 MiB of entries; no huge page lies in two
_SPARSE_PAGES = 1 << 13  # from 32 MiB on, mostly empty ranges are asked for what is in them first
_GAP_PAGES = 512  # read over gaps shorter than this
_VM_ACCESS = np.uint64(7)  # VM_READ | VM_WRITE | VM_EXEC
_HUGE = np.uint8(MappingFlag.HUGE)

T = TypeVar("T")


@contextmanager
def own_page(*, written: bool = True) -> Iterator[int]:
    """The PFN of an anonymous page of our own, there until the end; 0: PFNs are not shown to us.

    Of one that was not ``written``, but read, it is that of the kernel's zero page.
    """
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE) as page:
        if written:
            page.write_byte(1)
        else:
            page.read_byte()
        place = ctypes.addressof(ctypes.c_char.from_buffer(page)) // mmap.PAGESIZE
        with (PROC / "self" / "pagemap").open("rb", 0) as file:
            entry = int.from_bytes(os.pread(file.fileno(), 8, 8 * place), "little")
        yield entry & int(_PFN)


@dataclass(frozen=True)
class _Range:
    """Pages [first, last), in the VMAs ``vma_ids`` or between them."""

    vma_ids: Ints
    first: int
    last: int


@dataclass(frozen=True)
class _Found:
    """What a range maps. ``swap``, ``huge``: pages by VMA, u64 and i64 (n,).

    ``shared``: frames not known to be mapped once. PM_MMAP_EXCLUSIVE of a huge page is not
    believed: before 6.11 (2c1f057e5be6) it is that of its first page, and the page may be split by
    the time its flags are read.
    """

    vma_ids: Ints
    rows: Rows
    swap: Words
    huge: Ints
    shared: Words


class PageMaps:
    """The pagemaps of some processes: ``walk`` reads all of them, again and again if need be.

    ``smaps``: its numbers by name, pages per VMA. ``others``: bool per VMA, pages that are not
    anonymous count there too. ``threads``: so many read, and what one more found waits.
    ``gone``: bool per process, whether it could not be read.
    """

    def __init__(
        self,
        processes: Sequence[Process],
        vmas: Columns,
        smaps: dict[str, Words],
        others: Mask,
        threads: int,
    ) -> None:
        self._processes = processes
        self._vmas = vmas
        self._start, self._end = (vmas[name] >> PAGE_SHIFT for name in ("start", "end"))
        self._huge = smaps["AnonHugePages"]
        self._populated = smaps["Rss"] + smaps["Swap"]
        self._others = others
        self._threads = threads
        self.gone = np.zeros(len(processes), np.bool_)
        self._shared: Packed | None = Packed(np.uint64)

    def walk(self, progress: Callable[[int], None]) -> Mapped:
        """Every page that the VMAs map; ``progress`` is told the number of mms done."""
        names = ("zero_pages", "ksm_zero_pages", "nonpresent_pages", "unknown_pages", "swap_pages")
        counts = {name: np.zeros(len(self._huge), np.uint64) for name in names}
        mapped = Mapped(counts, first_pages(self._start, self._end))
        huge_found = np.zeros(len(self._huge), np.int64)
        for places in in_turn(self._look, self._some(progress), self._threads):
            for found in places:
                mapped.append(found.rows)
                if self._shared is not None:
                    self._shared.append(found.shared)
                mapped.counts["swap_pages"][found.vma_ids] += found.swap
                huge_found[found.vma_ids] += found.huge
        self._forget_huge(mapped, huge_found)
        return mapped

    def shared(self) -> Packed | None:
        """The frames that the first walk does not know to be mapped once, u64; None the next time.

        They are told once, and held no longer: as many as rows where fork shares all.
        """
        shared, self._shared = self._shared, None
        return shared

    def _some(self, progress: Callable[[int], None]) -> Iterator[tuple[int, list[_Range]]]:
        """Where VMAs may map something: an mm, and some of its ranges, ``_PIECE_PAGES`` or so."""
        walked = np.flatnonzero(self._vmas["has_anon_vma"] | self._others)
        mms = self._vmas["mm_id"][walked]
        bounds = [0, *(np.flatnonzero(np.diff(mms)) + 1).tolist(), len(mms)]
        for begin, stop in pairwise(bounds if len(mms) else []):
            mm_id, vma_ids = int(mms[begin]), walked[begin:stop]
            progress(mm_id)
            for some in _together(self._of_pagemap(mm_id, partial(self._ranges, vma_ids))):
                yield mm_id, some

    def _ranges(self, vma_ids: Ints, file: int) -> Iterator[_Range]:
        """Where the VMAs may map something; each has ``_PIECE_PAGES`` at most."""
        starts, ends = self._start[vma_ids], self._end[vma_ids]
        apart = np.flatnonzero(starts[1:] - ends[:-1] >= _GAP_PAGES) + 1
        for first_vma, next_vma in pairwise([0, *apart.tolist(), len(starts)]):
            some = slice(first_vma, next_vma)
            some_ids, some_starts, some_ends = vma_ids[some], starts[some], ends[some]
            start, end = int(some_starts[0]), int(some_ends[-1])
            ranges = [(start, end)]
            if end - start >= _SPARSE_PAGES and 2 * self._populated[some_ids].sum() < end - start:
                ranges = _populated(file, start, end)
            for first, last in ranges:
                bounds = range(first // _PIECE_PAGES + 1, -(-last // _PIECE_PAGES))
                for edges in pairwise([first, *(n * _PIECE_PAGES for n in bounds), last]):
                    begin = int(np.searchsorted(some_ends, np.uint64(edges[0]), side="right"))
                    stop = int(np.searchsorted(some_starts, np.uint64(edges[1])))
                    yield _Range(some_ids[begin:stop], *edges)

    def _look(self, where: tuple[int, list[_Range]]) -> list[_Found]:
        """What the ranges map."""
        mm_id, ranges = where

        def look(file: int) -> Iterator[_Found]:
            for each in ranges:
                raw = os.pread(file, 8 * (each.last - each.first), 8 * each.first)
                yield self._found(each, np.frombuffer(raw, np.uint64))

        return self._of_pagemap(mm_id, look)

    def _of_pagemap(self, mm_id: int, look: Callable[[int], Iterator[T]]) -> list[T]:
        """What is seen in the open file; nothing, and the mm is ``gone``, where reading fails."""
        try:
            with (PROC / str(self._processes[mm_id].pid) / "pagemap").open("rb", 0) as file:
                return [*look(file.fileno())]
        except OSError as error:
            if is_own_limit(error):
                raise
            self.gone[mm_id] = True
            return []

    def _found(self, where: _Range, entries: Words) -> _Found:
        vma_ids, first = where.vma_ids, np.uint64(where.first)
        start, end = self._start[vma_ids], self._end[vma_ids]
        closed = (self._vmas["vm_flags"][vma_ids] & _VM_ACCESS) == 0
        _, vma = _in_vmas(entries & _SWAP != 0, first, start, end)
        swap = np.bincount(vma, minlength=len(vma_ids)).astype(np.uint64)
        at, vma = _in_vmas(entries & _PRESENT != 0, first, start, end)
        wanted = entries[at] & _FILE == 0
        wanted |= self._others[vma_ids[vma]]
        if not wanted.all():
            at, vma = at[wanted], vma[wanted]
        entries = entries[at]
        page, pfn = at.view(np.uint64) + first, entries & _PFN
        flags = closed[vma] * np.uint8(MappingFlag.PROT_NONE)
        head = _whole_huge_pages(vma, page, pfn)
        flags[(head[:, None] + np.arange(HUGE_PAGES)).ravel()] |= _HUGE
        huge = HUGE_PAGES * np.bincount(vma[head], minlength=len(vma_ids))
        rows = Rows(vma_ids.astype(np.uint32)[vma], page - start[vma], pfn, flags)
        known_once = (entries & _EXCLUSIVE != 0) & (flags & _HUGE == 0)
        return _Found(vma_ids, rows, swap, huge, pfn[~known_once])

    def _forget_huge(self, mapped: Mapped, huge_found: Ints) -> None:
        """Leave HUGE where smaps counts as many huge pages as were found whole.

        WRITABLE and DIRTY are in no file.
        """
        wrong = (huge_found != self._huge) & (huge_found != 0)
        if not wrong.any():
            return
        for number, rows in enumerate(mapped.pieces()):
            of_wrong = wrong[rows.vma_id] & ((rows.flags & _HUGE) != 0)
            if of_wrong.any():
                mapped.flags.change(number, rows.flags & ~(of_wrong * _HUGE))


def _whole_huge_pages(vma: npt.NDArray[np.int64], page: Words, pfn: Words) -> npt.NDArray[np.int64]:
    """The rows where a huge page can begin: all its pages follow, in one VMA and one block."""
    size = np.uint64(HUGE_PAGES)
    head = np.flatnonzero((page % size == 0) & (pfn % size == 0))
    head = head[head + HUGE_PAGES <= len(pfn)]
    last = head + HUGE_PAGES - 1
    whole = (vma[last] == vma[head]) & (page[last] - page[head] == size - 1)
    whole &= pfn[last] - pfn[head] == size - 1
    return head[whole]


def _together(ranges: list[_Range]) -> Iterator[list[_Range]]:
    """The same in lists: what little lies in many places is read by one thread."""
    some: list[_Range] = []
    pages = 0
    for each in ranges:
        some.append(each)
        pages += each.last - each.first
        if pages >= _PIECE_PAGES:
            yield some
            some, pages = [], 0
    if some:
        yield some


def _in_vmas(
    wanted: npt.NDArray[np.bool_], first: np.uint64, starts: Words, ends: Words
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which entries, from that of page ``first`` on, are wanted and in a VMA; and in which one."""
    place = np.flatnonzero(wanted)
    some = slice(
        int(np.searchsorted(ends, first, side="right")),
        int(np.searchsorted(starts, first + np.uint64(len(wanted)))),
    )
    begin, stop = (
        np.searchsorted(place, np.maximum(pages[some], first) - first) for pages in (starts, ends)
    )
    counts = stop - begin
    vma = np.repeat(np.arange(some.start, some.stop), counts)
    if len(vma) < len(place):  # some are between VMAs
        place = place[np.arange(len(vma)) + np.repeat(begin - (np.cumsum(counts) - counts), counts)]
    return place, vma


class _PageRegion(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("start", "end", "categories")]


class _PmScanArg(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    ]


_PAGEMAP_SCAN = 0xC060_6610  # _IOWR('f', 16, struct pm_scan_arg), 6.7+
_PAGE_IS_PRESENT, _PAGE_IS_SWAPPED = 1 << 3, 1 << 4
_REGIONS = 4096


def _populated(file: int, start: int, end: int) -> list[tuple[int, int]]:
    """The parts of [start, end) that hold something; all of it before 6.7."""
    regions = (_PageRegion * _REGIONS)()
    wanted = _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED
    found: list[tuple[int, int]] = []
    shift = int(PAGE_SHIFT)
    at, stop = start << shift, end << shift
    while at < stop:
        argument = _PmScanArg(
            size=ctypes.sizeof(_PmScanArg),
            start=at,
            end=stop,
            vec=ctypes.addressof(regions),
            vec_len=_REGIONS,
            category_anyof_mask=wanted,
            return_mask=wanted,
        )
        try:
            count = fcntl.ioctl(file, _PAGEMAP_SCAN, argument)
        except OSError:
            return [(start, end)]
        for region in regions[:count]:
            first, last = region.start >> shift, region.end >> shift
            if found and first - found[-1][1] < _GAP_PAGES:
                found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
        if count < _REGIONS:  # walk_end may lie before what was found (do_pagemap_scan())
            break
        at = regions[count - 1].end
    return found

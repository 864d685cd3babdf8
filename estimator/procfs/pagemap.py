"""What is mapped where, from /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.facts import MappingFlag
from estimator.mapped import Mapped, Words
from estimator.procfs.processes import PROC, Process

_PRESENT, _SWAP, _FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
_PFN = np.uint64((1 << 55) - 1)
_PIECE_PAGES = 1 << 18  # 2 MiB of entries
_SPARSE_PAGES = 1 << 13  # VMAs from 32 MiB on are asked for what is in them first
_VM_ACCESS = np.uint64(7)  # VM_READ | VM_WRITE | VM_EXEC


class PageMaps:
    """The pagemaps of some processes: ``walk`` reads all of them, again and again if need be."""

    def __init__(self, processes: Sequence[Process], vmas: pd.DataFrame, huge: Words) -> None:
        self._processes = processes
        self._vmas = vmas
        self._huge = huge
        self.gone = np.zeros(len(processes), np.bool_)

    def walk(self, progress: Callable[[int], None]) -> Mapped:
        """Every page that an anonymous VMA maps; ``progress`` is told the number of mms done."""
        parts = [(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.uint64))]
        swap = np.zeros(len(self._vmas), np.uint64)
        rows = self._vmas[self._vmas["has_anon_vma"]]
        for mm_id in np.unique(rows["mm_id"].to_numpy()).tolist():
            vmas = rows[rows["mm_id"] == mm_id]
            progress(mm_id)
            try:
                file = os.open(PROC / str(self._processes[mm_id].pid) / "pagemap", os.O_RDONLY)
            except OSError:
                self.gone[mm_id] = True
                continue
            try:
                for vma_id, start, end in vmas[["vma_id", "start", "end"]].to_numpy().tolist():
                    for first, entries in _entries(file, start >> 12, end >> 12):
                        swap[vma_id] += np.uint64(np.count_nonzero(entries & _SWAP))
                        place = np.flatnonzero((entries & (_PRESENT | _FILE)) == _PRESENT)
                        index = (place + (first - (start >> 12))).astype(np.uint32)
                        parts.append(
                            (np.full(len(place), vma_id, np.uint32), index, entries[place] & _PFN)
                        )
            except OSError:
                self.gone[mm_id] = True
            finally:
                os.close(file)
        vma_id, page_index, pfn = (np.concatenate(column) for column in zip(*parts, strict=True))
        counts = {
            name: np.zeros(len(self._vmas), np.uint64)
            for name in ("zero_pages", "ksm_zero_pages", "nonpresent_pages", "unknown_pages")
        }
        flags = self._flags(vma_id, page_index, pfn)
        return Mapped(vma_id, page_index, pfn, flags, {"swap_pages": swap} | counts)

    def _flags(
        self, vma_id: npt.NDArray[np.uint32], page_index: npt.NDArray[np.uint32], pfn: Words
    ) -> npt.NDArray[np.uint8]:
        """PROT_NONE as the VMA says; HUGE for whole 2 MiB, where smaps counts as many as we find.

        WRITABLE and DIRTY are in no file.
        """
        vm_flags = self._vmas["vm_flags"].to_numpy()
        closed = (vm_flags & _VM_ACCESS) == 0
        flags = closed[vma_id] * np.uint8(MappingFlag.PROT_NONE)
        page = (self._vmas["start"].to_numpy() >> np.uint64(12))[vma_id] + page_index
        head = np.flatnonzero((page % np.uint64(512) == 0) & (pfn % np.uint64(512) == 0))
        head = head[head + 511 < len(pfn)]
        last = head + 511
        whole = (vma_id[last] == vma_id[head]) & (page[last] - page[head] == 511)
        whole &= pfn[last] - pfn[head] == np.uint64(511)
        head = head[whole]
        found = np.bincount(vma_id[head], minlength=len(self._vmas)) * 512
        head = head[(found == self._huge)[vma_id[head]]]
        flags[(head[:, None] + np.arange(512)).ravel()] |= np.uint8(MappingFlag.HUGE)
        return flags


def _entries(file: int, start: int, end: int) -> Iterator[tuple[int, Words]]:
    """Pieces of the pagemap of the pages [start, end): first page, entries u64."""
    ranges = [(start, end)]
    if end - start >= _SPARSE_PAGES:
        ranges = _populated(file, start, end)
    for first, last in ranges:
        for piece in range(first, last, _PIECE_PAGES):
            size = min(_PIECE_PAGES, last - piece)
            raw = os.pread(file, 8 * size, 8 * piece)
            yield piece, np.frombuffer(raw, np.uint64)


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
_GAP_PAGES = 512  # read over gaps up to this long


def _populated(file: int, start: int, end: int) -> list[tuple[int, int]]:
    """The parts of [start, end) that hold something; all of it before 6.7."""
    regions = (_PageRegion * _REGIONS)()
    wanted = _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED
    found: list[tuple[int, int]] = []
    at = start << 12
    while at < end << 12:
        argument = _PmScanArg(
            size=ctypes.sizeof(_PmScanArg),
            start=at,
            end=end << 12,
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
            first, last = region.start >> 12, region.end >> 12
            if found and first - found[-1][1] < _GAP_PAGES:
                found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
        if argument.walk_end <= at:
            break
        at = argument.walk_end
    return found

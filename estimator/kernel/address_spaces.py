"""What the page tables of all processes hold: the table of VMAs, and a row per page mapped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.arrays import Columns, Words, page_keys
from estimator.collect.mappings import Mapped, Rows, first_pages
from estimator.kernel.arch import Entries
from estimator.kernel.layout import first_variable
from estimator.kernel.memory import Memory
from estimator.kernel.other_kinds import other_kinds
from estimator.kernel.pagetable import PageTables, Ranges
from estimator.kernel.processes import Mms
from estimator.kernel.requirements import ZERO_PFN
from estimator.kernel.vma_names import vma_names
from estimator.kernel.vmas import Vmas, excluded_by, vm_flag_values
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.format import CONTENTS


class AddressSpaces:
    """The VMAs of all mms, and their page tables, which can be walked again and again.

    ``anonymous``: bool per VMA, it can have anonymous pages that ksmd looks for. ``kinds``: u8 per
    VMA, the ``FrameKind`` of its other pages, where ``contents`` asks for them; else 0.
    """

    def __init__(
        self, prog: Program, memory: Memory, mms: Mms, vmas: Vmas, contents: str = CONTENTS[0]
    ) -> None:
        self._prog = prog
        self._memory = memory
        self._mms = mms
        self._vmas = vmas
        self._flag = vm_flag_values(prog)
        self._hugetlb = self._has("hugetlb")
        self.anonymous = (vmas.anon_vma != 0) & ~self._hugetlb
        self.kinds = other_kinds(prog, memory, vmas, self._flag, contents)
        self._walked = np.flatnonzero(self.anonymous | (self.kinds != 0))

    @functools.cached_property
    def columns(self) -> Columns:
        """Those of ``vmas.parquet`` but for what ``walk`` counts."""
        vmas = self._vmas
        reason = excluded_by(self._prog, vmas, self._flag)
        return {
            "vma_id": np.arange(len(vmas.start), dtype=np.uint32),
            "mm_id": vmas.mm,
            "start": vmas.start,
            "end": vmas.end,
            "vm_flags": vmas.flags,
            "name": vma_names(self._prog, vmas, self._mms.structs),
            "mergeable": self._has("mergeable"),
            "compatible": reason == None,  # noqa: E711
            "excluded_by": reason,
            "has_anon_vma": vmas.anon_vma != 0,
            "locked": self._has("locked"),
        }

    def walk(self, progress: Callable[[int], None]) -> Mapped:
        """Walk all page tables; ``progress`` is told the number of batches done."""
        vmas, walked, shift = self._vmas, self._walked, np.uint64(self._memory.page_shift)
        start = page_keys(vmas.mm, vmas.start >> shift)[walked]
        end = page_keys(vmas.mm, vmas.end >> shift)[walked]
        ranges = Ranges(start, end, self._hugetlb[walked])
        tables = PageTables(self._prog, self._memory, ranges)
        pgd = self._memory.physical(self._mms.structs["pgd"])
        wanted = np.unique(vmas.mm[walked]).astype(np.int64)
        count = _EntryCounts(self._prog, walked.astype(np.uint32))
        leaves = tables.leaves(wanted.astype(np.uint64), pgd[wanted])
        mapped = Mapped({}, first_pages(vmas.start >> shift, vmas.end >> shift))
        for number, entries in enumerate(tables.entries(leaves), 1):
            mapped.append(count.mapped(entries, start))
            progress(number)
        for name, pages in (
            ("swap_pages", count.swap),
            ("zero_pages", count.zero),
            ("ksm_zero_pages", count.ksm_zero),
            ("nonpresent_pages", count.nonpresent + tables.nonpresent_pages),
            ("unknown_pages", tables.unreadable_pages),
        ):
            mapped.counts[name] = np.zeros(len(vmas.start), np.uint64)
            mapped.counts[name][walked] = pages
        return mapped

    def _has(self, flag: str) -> npt.NDArray[np.bool_]:
        return (self._vmas.flags & np.uint64(self._flag[flag])) != 0


class _EntryCounts:
    """Sorts the entries of page tables into mappings and counts by range (i64).

    ``vma_id``: u32, of each range.
    """

    def __init__(self, prog: Any, vma_id: npt.NDArray[np.uint32]) -> None:
        self._vma_id = vma_id
        self._zero_pfn = np.uint64(int(first_variable(prog, *ZERO_PFN)))
        # behind the types of swap areas are migration entries and the like
        areas = int(prog["nr_swapfiles"]) if "nr_swapfiles" in prog else 0
        self._swap_types = np.uint64(areas)
        self.swap, self.zero, self.ksm_zero = np.zeros((3, len(vma_id)), np.int64)
        self.nonpresent = np.zeros(len(vma_id), np.int64)

    def mapped(self, entries: Entries, start: Words) -> Rows:
        """What maps a page; the rest is counted."""
        present, pfn = entries.present, entries.pfn
        zero = present & (pfn == self._zero_pfn)
        swap = ~present & (entries.swap_type < self._swap_types)
        self._add(self.swap, entries, swap)
        self._add(self.nonpresent, entries, ~present & ~swap)
        self._add(self.ksm_zero, entries, zero & entries.dirty)  # is_ksm_zero_pte()
        self._add(self.zero, entries, zero & ~entries.dirty)
        keep = present & ~zero & ~entries.special
        flags = np.zeros(len(pfn), np.uint8)
        for flag, which in (
            (MappingFlag.PROT_NONE, entries.prot_none),
            (MappingFlag.HUGE, entries.huge),
            (MappingFlag.WRITABLE, entries.writable),
            (MappingFlag.DIRTY, entries.dirty),
        ):
            flags |= which.view(np.uint8) * np.uint8(flag)
        index = entries.range_index
        return Rows(self._vma_id[index], entries.key - start[index], pfn, flags)[keep]

    def _add(self, total: npt.NDArray[np.int64], entries: Entries, which: Any) -> None:
        if which.any():
            total += np.bincount(entries.range_index[which], minlength=len(total))

"""arm64: pages of 4, 16 or 64 KiB, 2 to 5 levels of tables, and the bits of an entry.

Sources: arch/arm64/include/asm/pgtable-hwdef.h, pgtable-prot.h, pgtable.h. A contiguous entry
(CONT) has its own frame like any other, so nothing here knows of them. What differs between kernels
is read from the kernel itself, not told by its release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from drgn import FaultError, Program

from estimator.arrays import Ints, Mask, Words
from estimator.kernel import vmcoreinfo
from estimator.kernel.arch import shape

_VALID = np.uint64(1 << 0)
_TABLE = np.uint64(1 << 1)  # of an entry above the last level: not a block
_USER = np.uint64(1 << 6)
_RDONLY = np.uint64(1 << 7)
_NOT_GLOBAL = np.uint64(1 << 11)
_WRITE = np.uint64(1 << 51)  # DBM
_UXN = np.uint64(1 << 54)
_DIRTY = np.uint64(1 << 55)
_SPECIAL = np.uint64(1 << 56)
_OLD_PROT_NONE = np.uint64(1 << 58)
_OLD_PMD_INVALID = np.uint64(1 << 59)
_ZERO = np.uint64(0)
_64K_SHIFT = 16
_LPA2_BITS = 52  # of a virtual address, with pages of 4 or 16 KiB


def direct_map(prog: Program) -> int:
    """Where physical memory is mapped from 0 on: __phys_to_virt(0), modulo 2**64.

    PAGE_OFFSET is that of the build (VA_BITS), whatever the machine can; PHYS_OFFSET, where memory
    begins (``memstart_addr``), makes up for it and may be negative.
    """
    page_offset = -(1 << vmcoreinfo.number(prog, "VA_BITS"))
    return (page_offset - vmcoreinfo.number(prog, "PHYS_OFFSET")) % (1 << 64)


class _Generation(NamedTuple):
    """Where a kernel keeps what the hardware does not look at.

    ``present_invalid``: present for the kernel alone. ``no_access``, of ``access``: what else is so
    in an entry without access. ``invalid_pmd``: present, too, in an entry of a huge page.
    """

    present_invalid: np.uint64
    access: np.uint64
    no_access: np.uint64
    invalid_pmd: np.uint64
    swap_type_shift: np.uint64
    swap_type_bits: int


_SINCE_6_11 = _Generation(_NOT_GLOBAL, _USER | _UXN, _UXN, _NOT_GLOBAL, np.uint64(6), 5)
_SINCE_5_19 = _Generation(_OLD_PROT_NONE, _ZERO, _ZERO, _OLD_PMD_INVALID, np.uint64(3), 5)
_FIRST = _Generation(_OLD_PROT_NONE, _ZERO, _ZERO, _OLD_PMD_INVALID, np.uint64(2), 6)


def _generation(prog: Program) -> _Generation:
    """By PAGE_NONE, what mmap(PROT_NONE) gives an entry; then by PG_anon_exclusive.

    The latter came with pte_swp_exclusive() (5.19), which takes a bit of the swap type.
    """
    page_none = int(prog["protection_map"][0].pgprot.value_())
    if page_none & int(_VALID):
        raise FaultError(f"entries of PROT_NONE are valid: {page_none:#x}", 0)
    if not page_none & int(_OLD_PROT_NONE):
        return _SINCE_6_11
    try:
        prog.constant("PG_anon_exclusive")
    except LookupError:
        return _FIRST
    return _SINCE_5_19


@dataclass(frozen=True)
class Entries(shape.Entries):
    """Those of arm64, of one kernel."""

    format: PageTableFormat

    @property
    def present(self) -> Mask:
        """pte_present(), pmd_present()."""
        mark = _VALID | self.format.generation.present_invalid
        return ((self.value & mark) != _ZERO) | self.huge

    @property
    def pfn(self) -> Words:
        """pte_pfn(), pmd_pfn() plus the piece."""
        return self.format.address(self.value) >> self.format.page_shift

    @property
    def prot_none(self) -> Mask:
        """pte_protnone()."""
        of = self.format.generation
        mask = _VALID | of.present_invalid | of.access
        return (self.value & mask) == of.present_invalid | of.no_access

    @property
    def special(self) -> Mask:
        """pte_special()."""
        return (self.value & _SPECIAL) != _ZERO

    @property
    def writable(self) -> Mask:
        """pte_write()."""
        return (self.value & _WRITE) != _ZERO

    @property
    def dirty(self) -> Mask:
        """pte_dirty(): by the kernel's own bit or by the hardware's."""
        by_hardware = (self.value & (_WRITE | _RDONLY)) == _WRITE
        return by_hardware | ((self.value & _DIRTY) != _ZERO)

    @property
    def swap_type(self) -> Words:
        """__swp_type()."""
        of = self.format.generation
        return self.value >> of.swap_type_shift & np.uint64((1 << of.swap_type_bits) - 1)


class PageTableFormat(shape.PageTableFormat):
    """As many levels as the addresses that the kernel uses need, not those it was built for."""

    def __init__(self, prog: Program) -> None:
        address_bits = 64 - vmcoreinfo.number(prog, "TCR_EL1_T1SZ")
        super().__init__(vmcoreinfo.page_shift(prog), address_bits)
        self.generation = _generation(prog)
        shift = int(self.page_shift)
        lpa2 = shift != _64K_SHIFT and address_bits == _LPA2_BITS
        low_bits = 50 if lpa2 else 48
        self._low = np.uint64((1 << low_bits) - (1 << shift))
        self._high, self._high_shift = _ZERO, _ZERO
        if shift == _64K_SHIFT:  # RES0 without 52-bit addresses (LPA)
            self._high, self._high_shift = np.uint64(0xF << 12), np.uint64(48 - 12)
        elif lpa2:
            self._high, self._high_shift = np.uint64(3 << 8), np.uint64(50 - 8)
        block_bits = shift + self.bits_per_level
        self._below_block = np.uint64((1 << block_bits) - (1 << shift))

    def address(self, value: Words) -> Words:
        """__pte_to_phys()."""
        return (value & self._low) | (value & self._high) << self._high_shift

    def clear_encryption(self, value: Words) -> None:
        """There is none."""

    def is_table(self, value: Words) -> Mask:
        """pud_table(), p4d_table(): not blocks."""
        table = _VALID | _TABLE
        return (value & table) == table

    def is_huge(self, value: Words) -> Mask:
        """pmd_trans_huge()."""
        return ~self.is_absent(value) & ((value & _TABLE) == _ZERO)

    def is_absent(self, value: Words) -> Mask:
        """Not pmd_present()."""
        of = self.generation
        return (value & (_VALID | of.present_invalid | of.invalid_pmd)) == _ZERO

    def table_address(self, value: Words) -> Words:
        """Where the table of an entry is."""
        return self.address(value)

    def turn_upright(self, value: Words, huge: Mask) -> None:
        """arm64 inverts nothing."""

    def gigantic_pieces(self, value: Words) -> Words:
        """The blocks ``value`` of the level above as blocks of the one below."""
        shift = int(self.page_shift) + self.bits_per_level
        blocks = np.arange(self.entries, dtype=np.uint64) << np.uint64(shift)
        return (value & ~(self._low & (blocks[-1] | self._below_block)))[:, None] + blocks

    def pieces(self, value: Words) -> Words:
        """The blocks ``value`` as entries of a leaf table each, u64 (n, entries)."""
        pages = np.arange(self.entries, dtype=np.uint64) << self.page_shift
        return (value & ~self._below_block)[:, None] + pages

    def of_leaves(self, key: Words, range_index: Ints, value: Words, huge: Mask) -> Entries:
        """``Entries`` of arm64."""
        return Entries(key, range_index, value, huge, self)

"""x86-64: the shape of its page tables and the bits of an entry.

Entry bits: arch/x86/include/asm/pgtable_types.h. Inverted entries: pgtable-invert.h. Swap entries:
pgtable_64.h.
"""

from __future__ import annotations

import numpy as np
from drgn import Program

from estimator.arrays import Ints, Mask, Words
from estimator.kernel.arch import shape

PAGE_SHIFT = np.uint64(12)  # the only size of a page

_PRESENT = np.uint64(1 << 0)
_RW = np.uint64(1 << 1)
_DIRTY = np.uint64(1 << 6)
_PSE = np.uint64(1 << 7)
_PROTNONE = np.uint64(1 << 8)
_SPECIAL = np.uint64(1 << 9)
_SAVED_DIRTY = np.uint64(1 << 58)  # 6.6+; never set before
_SWAP_TYPE_SHIFT = np.uint64(59)
_PFN_MASK = np.uint64(0x000F_FFFF_FFFF_F000)
_HUGE_PFN_MASK = np.uint64(0x000F_FFFF_FFE0_0000)
_GIGANTIC_PFN_MASK = np.uint64(0x000F_FFFF_C000_0000)
_ZERO = np.uint64(0)


class Entries(shape.Entries):
    """Those of x86-64; ``value`` has its PFN bits un-inverted."""

    @property
    def present(self) -> Mask:
        """pte_present(); pmd_present(), true also for _PAGE_PSE alone (a split under way)."""
        return ((self.value & (_PRESENT | _PROTNONE)) != _ZERO) | self.huge

    @property
    def pfn(self) -> Words:
        """pte_pfn(), pmd_pfn() plus the piece."""
        return (self.value & _PFN_MASK) >> PAGE_SHIFT

    @property
    def prot_none(self) -> Mask:
        """pte_protnone(): present for the kernel, but without access."""
        return (self.value & (_PRESENT | _PROTNONE)) == _PROTNONE

    @property
    def special(self) -> Mask:
        """pte_special()."""
        return (self.value & _SPECIAL) != _ZERO

    @property
    def writable(self) -> Mask:
        """pte_write()."""
        return (self.value & _RW) != _ZERO

    @property
    def dirty(self) -> Mask:
        """pte_dirty()."""
        return (self.value & (_DIRTY | _SAVED_DIRTY)) != _ZERO

    @property
    def swap_type(self) -> Words:
        """__swp_type() of an entry that is not present."""
        return self.value >> _SWAP_TYPE_SHIFT


class PageTableFormat(shape.PageTableFormat):
    """4 levels, or 5; with SME an encryption bit."""

    def __init__(self, prog: Program) -> None:
        vmcoreinfo = prog["VMCOREINFO"].string_()
        five = b"NUMBER(pgtable_l5_enabled)=1" in vmcoreinfo
        super().__init__(int(PAGE_SHIFT), 57 if five else 48)
        self._encryption = np.uint64(prog["sme_me_mask"].value_() if "sme_me_mask" in prog else 0)
        self._inverted_bits = _PFN_MASK & ~self._encryption  # PTE_PFN_MASK

    def clear_encryption(self, value: Words) -> None:
        """Take the encryption bit (SME) out of the entries ``value``, in place."""
        if self._encryption:
            value &= ~self._encryption

    def is_table(self, value: Words) -> Mask:
        """Whether entries above the last two levels lead to a table: not 1 GiB leaves."""
        return (value & (_PRESENT | _PSE)) == _PRESENT

    def is_huge(self, value: Words) -> Mask:
        """pmd_leaf(), true also for _PAGE_PSE alone (a split under way)."""
        return (value & _PSE) != _ZERO

    def is_absent(self, value: Words) -> Mask:
        """Whether an entry that is no leaf leads nowhere: migration, swap."""
        return (value & _PRESENT) == _ZERO

    def table_address(self, value: Words) -> Words:
        """The physical address of the table that an entry leads to."""
        return value & _PFN_MASK

    def turn_upright(self, value: Words, huge: Mask) -> None:
        """Un-invert the PFN bits where __pte_needs_invert(), in place; not of pieces (``huge``)."""
        inverted = ((value & _PRESENT) == _ZERO) & ~huge
        value[inverted] ^= self._inverted_bits

    def gigantic_pieces(self, value: Words) -> Words:
        """1 GiB leaves as 2 MiB leaves."""
        inverted: Words = np.where((value & _PRESENT) == _ZERO, self._inverted_bits, _ZERO)
        first = (value ^ inverted) & ~(_PFN_MASK & ~_GIGANTIC_PFN_MASK)
        pages = np.arange(self.entries, dtype=np.uint64) << np.uint64(
            int(PAGE_SHIFT) + self.bits_per_level
        )
        found: Words = (first[:, None] + pages) ^ inverted[:, None]
        return found

    def pieces(self, value: Words) -> Words:
        """PMD leaves (n,) as entries of a leaf table each, u64 (n, 512), with their flags."""
        upright = np.where(value & _PRESENT, value, value ^ self._inverted_bits)
        flags = upright & ~(_PFN_MASK | _PSE)
        pages = np.arange(self.entries, dtype=np.uint64) << PAGE_SHIFT
        return ((upright & _HUGE_PFN_MASK) | flags)[:, None] + pages

    def of_leaves(self, key: Words, range_index: Ints, value: Words, huge: Mask) -> Entries:
        """``Entries`` of x86-64."""
        return Entries(key, range_index, value, huge)

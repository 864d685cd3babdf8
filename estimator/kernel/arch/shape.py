"""What the walk of page tables asks an architecture: the shape of its tables, and its entries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from estimator.arrays import Ints, Mask, Words

ENTRY_SHIFT = np.uint64(3)  # an entry has 8 bytes


@dataclass(frozen=True)
class Entries(ABC):
    """The entries of some leaf tables that are in a range and not empty, in key order.

    ``key``: u64. ``range_index``: i64, the row of ``Ranges``. ``value``: u64, the entry after
    ``turn_upright``; huge entries are expanded to their pages. ``huge``: bool.
    """

    key: Words
    range_index: Ints
    value: Words
    huge: Mask

    @property
    @abstractmethod
    def present(self) -> Mask:
        """pte_present(); pmd_present(), true also while a huge page is being split."""

    @property
    @abstractmethod
    def pfn(self) -> Words:
        """pte_pfn(), pmd_pfn() plus the piece."""

    @property
    @abstractmethod
    def prot_none(self) -> Mask:
        """pte_protnone(): present for the kernel, but without access."""

    @property
    @abstractmethod
    def special(self) -> Mask:
        """pte_special()."""

    @property
    @abstractmethod
    def writable(self) -> Mask:
        """pte_write()."""

    @property
    @abstractmethod
    def dirty(self) -> Mask:
        """pte_dirty()."""

    @property
    @abstractmethod
    def swap_type(self) -> Words:
        """__swp_type() of an entry that is not present."""


class PageTableFormat(ABC):
    """How the entries of one kernel's page tables are read.

    ``levels``: of tables, the leaf tables included. ``entries``: of a table that fills a page, as
    all do but for the top one: ``top_bytes``, at a multiple of that.
    """

    def __init__(self, page_shift: int, address_bits: int) -> None:
        self.page_shift = np.uint64(page_shift)
        self.bits_per_level = page_shift - int(ENTRY_SHIFT)
        self.entries = 1 << self.bits_per_level
        table_bits = address_bits - page_shift
        self.levels = -(-table_bits // self.bits_per_level)
        top_bits = table_bits - (self.levels - 1) * self.bits_per_level
        self.top_bytes = 1 << top_bits + int(ENTRY_SHIFT)

    @abstractmethod
    def clear_encryption(self, value: Words) -> None:
        """Take the bits of memory encryption out of the entries ``value``, in place."""

    @abstractmethod
    def is_table(self, value: Words) -> Mask:
        """Whether entries above the last two levels lead to a table: not leaves of 1 GiB."""

    @abstractmethod
    def is_huge(self, value: Words) -> Mask:
        """pmd_leaf(), true also while it is being split."""

    @abstractmethod
    def is_absent(self, value: Words) -> Mask:
        """Whether an entry that is no leaf leads nowhere: migration, swap."""

    @abstractmethod
    def table_address(self, value: Words) -> Words:
        """The physical address of the table that an entry leads to."""

    @abstractmethod
    def turn_upright(self, value: Words, huge: Mask) -> None:
        """Un-invert the PFN bits of what is not present, in place; not of pieces (``huge``)."""

    @abstractmethod
    def gigantic_pieces(self, value: Words) -> Words:
        """Leaves (n,) above PMD leaves as PMD leaves each, u64 (n, entries), with their flags."""

    @abstractmethod
    def pieces(self, value: Words) -> Words:
        """PMD leaves (n,) as entries of a leaf table each, u64 (n, entries), with their flags."""

    @abstractmethod
    def of_leaves(self, key: Words, range_index: Ints, value: Words, huge: Mask) -> Entries:
        """``Entries`` of this architecture."""

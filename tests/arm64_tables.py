"""Page tables of arm64 built by hand, as arch/arm64/include/asm/pgtable*.h says."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from drgn import Architecture, Platform

VALID, TABLE, USER, RDONLY, NOT_GLOBAL = 1, 2, 1 << 6, 1 << 7, 1 << 11
WRITE, CONT, UXN, DIRTY, SPECIAL = 1 << 51, 1 << 52, 1 << 54, 1 << 55, 1 << 56
OLD_PROT_NONE, OLD_PMD_INVALID = 1 << 58, 1 << 59
SHARED = 3 << 8  # SH; PFN bits where LPA2 is on


class Shape(NamedTuple):
    """``address_bits``: that the kernel uses. ``top``: entries of the highest table."""

    page_shift: int
    address_bits: int
    levels: int
    top: int


SHAPES = (
    Shape(12, 39, 3, 512),
    Shape(12, 48, 4, 512),
    Shape(12, 52, 5, 16),
    Shape(14, 36, 2, 2048),
    Shape(14, 47, 3, 2048),
    Shape(14, 48, 4, 2),
    Shape(14, 52, 4, 32),
    Shape(16, 42, 2, 8192),
    Shape(16, 48, 3, 64),
    Shape(16, 52, 3, 1024),
)
GENERATIONS = ("5.10", "5.19", "6.11")
_PAGE_NONE = {"5.10": OLD_PROT_NONE | UXN, "5.19": OLD_PROT_NONE | UXN, "6.11": NOT_GLOBAL | UXN}


class _Value:
    """An Object of drgn, as far as it is asked for here."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def string_(self) -> bytes:
        return bytes(self.value)

    def value_(self) -> int:
        return int(self.value)

    def __getitem__(self, number: int) -> _Value:
        return _Value(self.value[number])

    @property
    def pgprot(self) -> _Value:
        return self


class Tables:
    """A kernel of ``shape`` and ``generation``, and frames of page tables.

    The tables of the roots lie in the middle of a page where they are smaller than one.
    """

    platform = Platform(Architecture.AARCH64)

    def __init__(self, shape: Shape, generation: str = "6.11") -> None:
        self.shape, self.generation = shape, generation
        self.page_shift = shape.page_shift
        self.bits = shape.page_shift - 3
        self.lpa2 = shape.page_shift != 16 and shape.address_bits == 52
        self.frames: dict[int, Any] = {}
        self.lost: set[int] = set()
        self.roots = [self._new(), self._new()]

    def _new(self) -> int:
        pfn = 1000 + len(self.frames)
        self.frames[pfn] = np.zeros(1 << self.bits, np.uint64)
        return pfn

    def address(self, pfn: int) -> int:
        """Where a table lies."""
        return (pfn << self.page_shift) + 8 * self._start(pfn)

    def _start(self, pfn: int) -> int:
        whole = self.shape.top == 1 << self.bits
        return 0 if pfn not in self.roots or whole else self.shape.top

    def output(self, pfn: int) -> int:
        """The bits of an entry that name a frame: __phys_to_pte_val()."""
        physical = pfn << self.page_shift
        if self.page_shift == 16:
            return physical & (1 << 48) - 1 | physical >> 48 << 12
        if self.lpa2:
            return physical & (1 << 50) - 1 | physical >> 50 << 8
        return physical | SHARED

    def set(self, mm: int, page: int, value: int, level: int = 0) -> int:
        """Returns the frame of the table that holds the entry."""
        table = self.roots[mm]
        for depth in range(self.shape.levels - 1, level - 1, -1):
            at = self._start(table) + (page >> self.bits * depth & (1 << self.bits) - 1)
            if depth == level:
                self.frames[table][at] = value
                break
            if not self.frames[table][at]:
                below = self._new()
                self.frames[table][at] = below << self.page_shift | VALID | TABLE | UXN
            table = (int(self.frames[table][at]) & (1 << 48) - 1) >> self.page_shift
        return table

    def encode(self, pfn: int, kind: str) -> int:
        """An entry of a page, or of what is swapped out to area 3."""
        out, new = self.output(pfn), self.generation == "6.11"
        user = VALID | TABLE | USER | NOT_GLOBAL | UXN
        match kind:
            case "plain":
                return out | user | WRITE
            case "readonly":
                return out | user | RDONLY
            case "clean":  # the hardware has not written yet
                return out | user | WRITE | RDONLY
            case "dirty-cont":
                return out | user | RDONLY | DIRTY | CONT
            case "none":
                mark = NOT_GLOBAL if new else OLD_PROT_NONE | NOT_GLOBAL
                return out | TABLE | RDONLY | UXN | mark
            case _:
                offset = pfn & (1 << 40) - 1
                return 3 << {"5.10": 2, "5.19": 3, "6.11": 6}[self.generation] | (
                    offset << (12 if new else 8)
                )

    def block(self, pfn: int, kind: str = "") -> int:
        """An entry of a huge page: writable; "none"; "split", made invalid for a moment."""
        user = TABLE ^ self.encode(pfn, "plain")
        if kind == "none":
            return TABLE ^ self.encode(pfn, "none")
        if kind == "split":
            mark = NOT_GLOBAL if self.generation == "6.11" else OLD_PMD_INVALID
            return user & ~VALID | mark
        return user

    # what a Program is asked for

    def __contains__(self, name: str) -> bool:
        return name in ("VMCOREINFO", "protection_map")

    def __getitem__(self, name: str) -> _Value:
        if name == "protection_map":
            return _Value([_PAGE_NONE[self.generation]])
        lines = (
            f"PAGESIZE={1 << self.page_shift}",
            "NUMBER(VA_BITS)=52",  # of the build; the machine may have fewer
            f"NUMBER(TCR_EL1_T1SZ)={64 - self.shape.address_bits:#x}",
        )
        return _Value("\n".join(lines).encode())

    def constant(self, name: str) -> _Value:
        """PG_anon_exclusive, since 5.19."""
        if self.generation == "5.10":
            raise LookupError(name)
        return _Value(1)

"""The architectures whose page tables can be decoded: one file each.

The walk (``kernel.pagetable``) asks these names and knows no bit of an entry itself. One
architecture is there so far; a second one makes the choice a fact of the target.
"""

from estimator.kernel.arch.x86_64 import (
    BITS_PER_LEVEL,
    ENTRIES,
    ENTRY_SHIFT,
    PAGE_SHIFT,
    USER_END,
    Entries,
    PageTableFormat,
)

__all__ = [
    "BITS_PER_LEVEL",
    "ENTRIES",
    "ENTRY_SHIFT",
    "PAGE_SHIFT",
    "USER_END",
    "Entries",
    "PageTableFormat",
]

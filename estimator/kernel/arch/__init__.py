"""The architectures whose page tables can be decoded: one file each.

The walk (``kernel.pagetable``) asks these what it needs and knows no bit of an entry itself.
"""

from __future__ import annotations

import numpy as np
from drgn import Architecture, Program

from estimator.errors import CannotAnswerError
from estimator.kernel.arch import aarch64, x86_64
from estimator.kernel.arch.shape import ENTRY_SHIFT, Entries, PageTableFormat
from estimator.kernel.dump.machine import SUPPORTED

__all__ = [
    "ENTRY_SHIFT",
    "USER_END",
    "Entries",
    "PageTableFormat",
    "page_table_format",
    "require_architecture",
]

USER_END = np.uint64(1 << 56)
"""The lower half of the largest address space: 57 bits, of x86-64."""
_FORMATS = {
    Architecture.X86_64: x86_64.PageTableFormat,
    Architecture.AARCH64: aarch64.PageTableFormat,
}


def page_table_format(prog: Program) -> PageTableFormat:
    """Of the kernel ``prog``. Raises CannotAnswerError as ``require_architecture``."""
    require_architecture(prog)
    assert prog.platform is not None
    return _FORMATS[prog.platform.arch](prog)


def require_architecture(prog: Program) -> None:
    """Raise CannotAnswerError unless page tables of the target's architecture can be decoded."""
    arch = prog.platform.arch if prog.platform else None
    if arch not in _FORMATS:
        name = arch.name.lower() if arch else "an unknown architecture"
        raise CannotAnswerError(
            f"this kernel is of {name}, whose page tables can't be decoded; "
            f"supported are {SUPPORTED}"
        )

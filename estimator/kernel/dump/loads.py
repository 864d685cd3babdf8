"""The table of what a file holds of physical memory: program headers, also where it has none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

PHDR = np.dtype(
    [("type", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("vaddr", "<u8"), ("paddr", "<u8")]
    + [("filesz", "<u8"), ("memsz", "<u8"), ("align", "<u8")]
)
PT_LOAD = 1
MOST_LOADS = 1_000_000
MOST_BYTES = 1 << 52  # of physical memory

Loads = npt.NDArray[Any]
"""PT_LOADs, dtype of ``Elf64_Phdr``, (n,), by ``paddr``."""


def loads_of(pieces: Iterable[tuple[int, int, int]]) -> Loads:
    """The table of ``pieces``: offset in the file, physical address, size; all in bytes."""
    rows = [(PT_LOAD, 0, offset, 0, address, size, size, 0) for offset, address, size in pieces]
    loads = np.array(rows, PHDR)
    loads.sort(order="paddr")
    return loads

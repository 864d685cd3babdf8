"""The memory of a system that runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.arrays import Mask, Words
from estimator.kernel.memory import Memory


class RunningMemory(Memory):
    """Reads structs of the direct map a frame at a time, not one read (or page walk) each."""

    moving = True

    def __init__(self, prog: Program) -> None:
        super().__init__(prog)
        self._direct_map_end = self.direct_map + (int(prog["max_pfn"].value_()) << self.page_shift)

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """See ``Memory.structs``."""
        size = dtype.itemsize
        addresses = self.untagged(addresses)
        start = self.physical(addresses)
        bulk = (addresses >= self.direct_map) & (addresses < self._direct_map_end)
        bulk &= (start & np.uint64(self.page_bytes - 1)) + np.uint64(size) <= self.page_bytes
        found, ok = np.empty(len(addresses), dtype), np.empty(len(addresses), np.bool_)
        data, ok[bulk] = self.within_frames(start[bulk], size)
        found[bulk] = data.view(dtype)[:, 0]
        if not bulk.all():  # vmalloc space or the kernel image, or across a page boundary
            found[~bulk], ok[~bulk] = super().structs(addresses[~bulk], dtype)
        return found, ok

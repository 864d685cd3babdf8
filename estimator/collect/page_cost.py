"""How long this machine takes to read, hash and compare a page, in user space and on cold memory.

ksmd hashes each page that it visits (calc_checksum() in mm/ksm.c, xxhash) and compares it with the
pages on its way down a tree (memcmp_pages()), of which the first bytes mostly differ. So much can
be measured without it, and is an estimate: it also walks page tables and takes locks, but its map
of memory misses the TLB less.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xxhash

from estimator.collect.memory_room import meminfo_bytes
from estimator.errors import CannotAnswerError

_PAGE_BYTES = 4096
_MOST_BYTES, _FEWEST_BYTES = 1 << 30, 1 << 28
"""Of memory that is read in random order: more than the caches of a core hold."""
_PAGES = 20_000


@dataclass(frozen=True)
class Measured:
    """Seconds for one page of ``pages`` cold ones.

    ``read_seconds``: copied; ``hash_seconds``: xxh64; ``equal_seconds``: compared with one that is
    equal; ``differ_seconds``: with one whose first bytes differ.
    """

    pages: int
    read_seconds: float
    hash_seconds: float
    equal_seconds: float
    differ_seconds: float

    @property
    def tree_depth(self) -> int:
        """Comparisons on the way down a tree of so many pages."""
        return max(1, round(math.log2(self.pages)))

    @property
    def visit_seconds(self) -> float:
        """An estimate for a unique page: hashed, and compared down to its place in a tree."""
        return self.hash_seconds + self.tree_depth * self.differ_seconds


def measure() -> Measured:
    """Measure on up to 1 GiB of memory, at most a quarter of what is available.

    Raises CannotAnswerError where that is too little to be cold.
    """
    size = min(_MOST_BYTES, (meminfo_bytes("MemAvailable") or 0) // 4)
    if size < _FEWEST_BYTES:
        raise CannotAnswerError(
            f"{_FEWEST_BYTES >> 20} MiB are read for it, and only {size >> 20} MiB can be spared"
        )
    pages = size // _PAGE_BYTES
    memory = np.zeros((pages, _PAGE_BYTES // 8), np.uint64)
    memory[:, 0] = np.arange(1, pages + 1)  # each page is there, and begins like no other
    key = np.zeros(_PAGE_BYTES // 8, np.uint64)
    view, start, hot = memory.data.cast("B"), memory.ctypes.data, key.ctypes.data
    memcmp, xxh64 = ctypes.CDLL(None).memcmp, xxhash.xxh64_intdigest
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    order = np.random.default_rng(0).permutation(pages)[: 4 * _PAGES] * _PAGE_BYTES
    read, hashed, equal, different = (part.tolist() for part in np.array_split(order, 4))
    return Measured(
        pages,
        read_seconds=_seconds(lambda at, size: ctypes.memmove(hot, start + at, size), read),
        hash_seconds=_seconds(lambda at, size: xxh64(view[at : at + size]), hashed),
        equal_seconds=_seconds(lambda at, size: memcmp(hot + 8, start + at + 8, size - 8), equal),
        differ_seconds=_seconds(lambda at, size: memcmp(hot, start + at, size), different),
    )


def _seconds(work: Callable[[int, int], object], places: list[int]) -> float:
    """CPU seconds of ``work`` on a whole page, without those of calling it for 8 hot bytes."""
    started = time.thread_time()
    for place in places:
        work(place, _PAGE_BYTES)
    cold = time.thread_time()
    for _ in places:
        work(places[0], 8)
    return max(0.0, 2 * cold - started - time.thread_time()) / len(places)

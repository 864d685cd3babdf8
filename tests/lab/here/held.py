"""Memory of a known kind, held by a process that has opted in to KSM: SEED KIND:MIB ...

KIND: alone (no two pages are equal), same (equal in every process), huge (alone, in huge pages).
Says "ready", and holds it until its stdin ends.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

_PR_SET_MEMORY_MERGE = 67
_HUGE_BYTES = 2 << 20


def hold(kind: str, size: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """u64 (size / 8,) in memory of its own, filled at random."""
    memory = mmap.mmap(-1, size + _HUGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if kind == "huge" else mmap.MADV_NOHUGEPAGE)
    words = np.frombuffer(memory, np.uint64)
    words = words[-words.ctypes.data % _HUGE_BYTES // 8 :][: size // 8]
    random = np.random.default_rng(0 if kind == "same" else 1 + seed)
    for part in np.array_split(words, max(1, size // _HUGE_BYTES)):
        part[:] = random.integers(1, 1 << 63, len(part), np.uint64)
    return words


if __name__ == "__main__":
    parts = (part.split(":") for part in sys.argv[2:])
    held = [hold(kind, int(mib) << 20, int(sys.argv[1])) for kind, mib in parts]
    if ctypes.CDLL(None).prctl(_PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
        sys.exit("prctl(PR_SET_MEMORY_MERGE) fails")
    print("ready", flush=True)
    sys.stdin.read()

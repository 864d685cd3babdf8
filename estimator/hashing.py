"""The contents of frames as 64-bit hashes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from estimator.facts import Unknown
from estimator.kernel.memory import PAGE_SIZE, Memory, Words

HASH_NAME = "xxh3_64"


def hash_frames(
    memory: Memory, pfns: Words, seed: int, done: Callable[[int], None]
) -> tuple[Words, npt.NDArray[np.uint8]]:
    """Hashes of the frames ``pfns``, u64 (n,), and ``Unknown`` codes, u8 (n,).

    The hash of an unknown frame is 0 and means nothing. ``done`` is told the frames hashed so far.
    """
    hashes = np.zeros(len(pfns), np.uint64)
    unknown = np.zeros(len(pfns), np.uint8)
    for rows, data, why in memory.batches(pfns):
        digests = map(xxh3_64_intdigest, data, repeat(seed))
        hashes[rows] = np.fromiter(digests, np.uint64, len(data))
        unknown[rows] = why
        done(rows.start + len(data))
    hashes[unknown != Unknown.HASHED] = 0
    return hashes, unknown


def zero_hash(seed: int) -> int:
    """The hash of a zero-filled frame."""
    return int(xxh3_64_intdigest(bytes(PAGE_SIZE), seed))

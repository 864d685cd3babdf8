"""The contents of frames as 64-bit hashes."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from estimator.snapshot.flags import Unknown

if TYPE_CHECKING:
    from estimator.kernel.memory import Memory

HASH_NAME = "xxh3_64"
PAGE_SIZE = 4096

Words = npt.NDArray[np.uint64]


def hash_frames(memory: Memory, pfns: Words, seed: int) -> tuple[Words, npt.NDArray[np.uint8]]:
    """Hashes of the frames ``pfns``, u64 (n,), and ``Unknown`` codes, u8 (n,).

    The hash of an unknown frame is 0 and means nothing.
    """
    contents, unknown = memory.contents(pfns)
    known = np.flatnonzero(unknown == Unknown.HASHED)
    digests = map(xxh3_64_intdigest, contents, repeat(seed))  # type: ignore[arg-type]
    hashes = np.zeros(len(pfns), np.uint64)
    hashes[known] = np.fromiter(digests, np.uint64, len(known))
    hashes[unknown != Unknown.HASHED] = 0
    return hashes, unknown


def zero_hash(seed: int) -> int:
    """The hash of a zero-filled frame."""
    return int(xxh3_64_intdigest(bytes(PAGE_SIZE), seed))

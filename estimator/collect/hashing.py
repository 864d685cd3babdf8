"""The contents of frames as 64-bit hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from xxhash import xxh3_64_intdigest

HASH_NAME = "xxh3_64"


def digest_of(seed: int) -> Callable[[Iterable[Any]], Iterable[int]]:
    """What makes 64-bit hashes of the contents of frames, one after the other."""
    return lambda contents: map(xxh3_64_intdigest, contents, repeat(seed))


def zero_hash(seed: int, page_bytes: int) -> int:
    """The hash of a zero-filled frame of ``page_bytes``."""
    return int(xxh3_64_intdigest(bytes(page_bytes), seed))

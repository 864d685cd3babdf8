"""Hashes beside that of the whole page, on demand: of its pieces, and of most of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from estimator.arrays import Bytes, Columns, Ints, Words
from estimator.collect.hashing import zero_hash

PAGES_AT_ONCE = 64  # 256 KiB: they and what is made of them stay in the cache
END_BYTES = 64
_SMALLEST_PIECE_BYTES = 1024
_PIECE_BYTES = 4096  # of larger pages


@dataclass(frozen=True)
class Wanted:
    """Which hashes are asked for. ``pieces``: of a page. ``near``: of most of it."""

    pieces: bool = False
    near: bool = False

    def columns(self, page_bytes: int) -> dict[str, Any]:
        """The dtypes of the columns of ``frames`` that this gives, by name."""
        names = ["near_hash", "no_address_hash"] if self.near else []
        if self.pieces:
            pieces = page_bytes // piece_bytes(page_bytes)
            names += [f"piece_hash_{number}" for number in range(pieces)]
        return dict.fromkeys(names, np.uint64)

    def info(self, seed: int, page_bytes: int) -> dict[str, int]:
        """What ``snapshot.json`` says of it."""
        if not self.pieces:
            return {}
        size = piece_bytes(page_bytes)
        return {"piece_bytes": size, "zero_piece_hash": zero_hash(seed, size)}


def piece_bytes(page_bytes: int) -> int:
    """The smallest piece that is hashed: 1 KiB of a 4 KiB page, 4 KiB of a larger one."""
    return _PIECE_BYTES if page_bytes > _PIECE_BYTES else _SMALLEST_PIECE_BYTES


class Areas:
    """Where the memory of each mm lies, to tell addresses from other words.

    ``mm``: u32, its number, ``start`` and ``end``: u64, of VMAs by mm and address. Two areas each,
    on both sides of the widest gap between two VMAs: the program with its heap, and what is mapped
    further up, with the stack.
    """

    def __init__(self, mm: npt.NDArray[np.uint32], start: Words, end: Words) -> None:
        mms = int(mm.max(initial=0)) + 1
        self._low = np.zeros((2, mms + 1, 1), np.uint64)  # the last one: of no mm
        self._bytes = np.zeros((2, mms + 1, 1), np.uint64)
        bounds = np.searchsorted(mm, np.arange(mms + 1)).tolist()
        for number, (first, stop) in enumerate(pairwise(bounds)):
            if first == stop:
                continue
            gaps = start[first + 1 : stop] - end[first : stop - 1]
            split = first + 1 + int(gaps.argmax()) if len(gaps) else stop
            for area, (begin, last) in enumerate(((first, split), (split, stop))):
                if begin < last:
                    self._low[area, number] = start[begin]
                    self._bytes[area, number] = end[last - 1] - start[begin]
        self._room = np.empty(0, np.uint64)

    def without_addresses(self, words: Words, mm: Ints) -> tuple[Ints, Words]:
        """The rows of ``words`` (u64 (n, m)) that have an address of their mm, and these as zeroes.

        ``mm``: of each row, -1 for none. A word is an address if it lies in an area of that mm.
        """
        if self._room.size < words.size:
            self._room = np.empty(words.size, np.uint64)  # fresh memory costs more than the test
        above = self._room[: words.size].reshape(words.shape)
        np.subtract(words, self._low[0, mm], out=above)
        inside = above < self._bytes[0, mm]
        np.subtract(words, self._low[1, mm], out=above)
        inside |= above < self._bytes[1, mm]
        rows = np.flatnonzero(inside.any(axis=1))
        found = words[rows]
        np.copyto(found, np.uint64(0), where=inside[rows])
        return rows, found


@dataclass(frozen=True)
class Further:
    """What makes the hashes that are ``wanted``, with the seed of all hashes.

    ``areas``: of the system's mms as they are now.
    """

    wanted: Wanted
    seed: int
    areas: Areas

    def hashes(self, data: Bytes, whole: Words, mm: Ints) -> Columns:
        """The columns of ``Wanted.columns``, u64 (n,), of the pages ``data``, u8 (n, page_bytes).

        ``whole``: their hashes. ``mm``: whose addresses are none of the content: the first that
        maps the page, -1 for none.
        """
        found: Columns = {}
        if self.wanted.near:
            found["near_hash"] = self._of_rows(data[:, END_BYTES:-END_BYTES])
            found["no_address_hash"] = without = whole.copy()
            rows, words = self.areas.without_addresses(data.view(np.uint64), mm)
            without[rows] = self._of_rows(words)
        if self.wanted.pieces:
            size = piece_bytes(data.shape[1])
            for number in range(data.shape[1] // size):
                piece = data[:, number * size : (number + 1) * size]
                found[f"piece_hash_{number}"] = self._of_rows(piece)
        return found

    def of_all(self, data: Bytes, mm: Ints) -> Columns:
        """``hash`` of the pages ``data`` and, beside it, ``hashes``."""
        whole = self._of_rows(data)
        return {"hash": whole} | self.hashes(data, whole, mm)

    def _of_rows(self, rows: npt.NDArray[Any]) -> Words:
        return np.fromiter(map(xxh3_64_intdigest, rows, repeat(self.seed)), np.uint64, len(rows))

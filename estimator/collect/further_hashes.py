"""Hashes beside that of the whole page, on demand: of its pieces, and of most of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from estimator.arrays import Bytes, Columns, Ints, Words, page_keys
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
    """Where the VMAs of each mm lie, to tell addresses from other words.

    ``mm``: u32, its number, ``start`` and ``end``: u64, of VMAs by mm and address.
    """

    def __init__(
        self, mm: npt.NDArray[np.uint32], start: Words, end: Words, page_shift: int
    ) -> None:
        self._shift = np.uint64(page_shift)
        self._start = page_keys(mm, start >> self._shift)
        self._end = page_keys(mm, end >> self._shift)
        self._low = start.min() if len(start) else np.uint64(0)
        self._span = end.max() - self._low if len(end) else np.uint64(0)
        self._room = np.empty(0, np.uint64)

    def without_addresses(self, words: Words, mm: Ints) -> tuple[Ints, Words]:
        """The rows of ``words`` (u64 (n, m)) that have an address of their mm, and these as zeroes.

        ``mm``: of each row, -1 for none. A word is an address if it lies in a VMA of that mm.
        """
        if self._room.size < words.size:
            self._room = np.empty(words.size, np.uint64)  # fresh memory costs more than the test
        above = np.subtract(words, self._low, out=self._room[: words.size].reshape(words.shape))
        place = np.flatnonzero(above < self._span)
        row = place // words.shape[1]
        place, row = place[mm[row] >= 0], row[mm[row] >= 0]
        key = page_keys(mm[row], words.reshape(-1)[place] >> self._shift)
        vma = np.searchsorted(self._start, key, side="right") - 1
        inside = (vma >= 0) & (key < self._end[vma])
        place, row = place[inside], row[inside]
        new = np.diff(row, prepend=-1) != 0  # in order: of each row the first
        some = row[new]
        found = words[some]
        found[np.cumsum(new) - 1, place % words.shape[1]] = 0
        return some, found


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

"""Hashes beside that of the whole page, on demand: of its pieces, and of most of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from estimator.arrays import Bytes, Columns, Ints, Mask, Words
from estimator.collect.hashing import zero_hash

PAGES_AT_ONCE = 256  # 1 MiB: they and what is made of them stay in the cache
END_BYTES = 64
_HALF, _4_GIB, _ONE = np.uint64(32), np.uint64(1 << 32), np.uint64(1)
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

    ``mm``: u32, its number, ``start`` and ``end``: u64, of VMAs by mm and address. All between the
    lowest and the highest VMA beyond the first 4 GiB counts, by upper halves: half the work; and,
    to the byte, for there are small numbers as well, all between those within them.
    """

    def __init__(self, mm: npt.NDArray[np.uint32], start: Words, end: Words) -> None:
        mms = int(mm.max(initial=0)) + 1
        near, beyond = start < _4_GIB, end > _4_GIB
        self._low, above = _outermost(mms, mm[near], start[near], np.minimum(end[near], _4_GIB))
        self._bytes = above - self._low
        upper, last = _outermost(
            mms,
            mm[beyond],
            np.maximum(start[beyond], _4_GIB) >> _HALF,
            ((end[beyond] - _ONE) >> _HALF) + _ONE,
        )
        self._upper, self._uppers = upper.astype(np.uint32), (last - upper).astype(np.uint32)
        self._least = np.where(self._bytes > 0, self._low, upper << _HALF)
        self._end = np.where(self._uppers > 0, last << _HALF, above)
        self._room, self._copies = np.empty(0, np.uint64), np.empty((0, 0), np.uint64)

    def without_addresses(self, words: Words, mm: Ints) -> tuple[Ints, Words]:
        """The rows of ``words`` (u64 (n, m)) that have an address of their mm, and these as zeroes.

        ``mm``: of each row, -1 for none. The next call uses the memory of these rows again.
        """
        if self._room.size < words.size:
            self._room = np.empty(words.size, np.uint64)  # fresh memory costs more than work
            self._copies = np.empty_like(words)
        if (mm == mm[:1]).all():
            inside = self._inside(words, mm[:1])
        else:  # one range for all of them costs less than one for each row
            least = self._least[mm].min()
            distance = np.subtract(words, least, out=self._room_for(words))
            may = np.flatnonzero((distance < self._end[mm].max() - least).any(axis=1))
            inside = np.zeros(words.shape, np.bool_)
            inside[may] = self._inside(words[may], mm[may])
        rows = np.flatnonzero(inside.any(axis=1))
        found = np.take(words, rows, axis=0, out=self._copies[: len(rows)], mode="clip")
        found.reshape(-1)[np.flatnonzero(inside[rows])] = 0
        return rows, found

    def _inside(self, words: Words, mm: Ints) -> Mask:
        """bool (n, m): which of ``words`` are addresses. ``mm``: of each row, or one for all."""
        upper = self._room.view(np.uint32)[: words.size].reshape(words.shape)
        np.copyto(upper, words.view(np.uint32)[:, 1::2])
        upper -= self._upper[mm]
        inside: Mask = upper < self._uppers[mm]
        if self._bytes[mm].any():
            distance = np.subtract(words, self._low[mm], out=self._room_for(words))
            inside |= distance < self._bytes[mm]
        return inside

    def _room_for(self, words: Words) -> Words:
        return self._room[: words.size].reshape(words.shape)


def _outermost(
    mms: int, mm: npt.NDArray[np.uint32], start: Words, end: Words
) -> tuple[Words, Words]:
    """The least ``start`` and the most ``end`` of each mm, u64 (mms + 1, 1); 0 of one without."""
    found = np.zeros((2, mms + 1, 1), np.uint64)
    found[0, :, 0] = np.iinfo(np.uint64).max
    np.minimum.at(found[0, :, 0], mm, start)
    np.maximum.at(found[1, :, 0], mm, end)
    found[0][found[1] == 0] = 0
    return found[0], found[1]


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

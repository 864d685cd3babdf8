"""Hashes beside that of the whole page, on demand: of its pieces, and of most of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns, Ints, Mask, Words
from estimator.collect.hashing import digest_of, zero_hash
from estimator.collect.page_room import PageRoom

PAGES_AT_ONCE = 256  # 1 MiB: they and what is made of them stay in the cache
END_BYTES = 64
_4_GIB, _ONE, _MOST = np.uint64(1 << 32), np.uint64(1), np.uint64((1 << 64) - 1)
_UPPER_HALF = _MOST - _4_GIB + _ONE
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
    lowest and the highest VMA beyond the first 4 GiB counts, by upper halves; and, to the byte, for
    there are small numbers as well, all between those within them.
    """

    def __init__(self, mm: npt.NDArray[np.uint32], start: Words, end: Words) -> None:
        mms = int(mm.max(initial=0)) + 1
        near, beyond = start < _4_GIB, end > _4_GIB
        low, low_end = _outermost(mms, mm[near], start[near], np.minimum(end[near], _4_GIB))
        high, high_end = _outermost(
            mms,
            mm[beyond],
            np.maximum(start[beyond], _4_GIB) & _UPPER_HALF,
            ((end[beyond] - _ONE) & _UPPER_HALF) + _4_GIB,
        )
        self._least, self._end = np.minimum(low, high), np.maximum(low_end, high_end)
        self._bytes = np.where(self._end > 0, self._end - self._least, 0)
        both = (low_end > 0) & (high_end > 0)
        self._gap, self._gap_bytes = low_end, np.where(both, high - low_end, 0)
        self._room = np.empty(0, np.uint64)

    def without_addresses(self, words: Words, mm: Ints, out: Words) -> Ints:
        """The rows of ``words`` (u64 (n, m)) that have an address of their mm.

        ``mm``: of each row, -1 for none. ``out``: u64 (n, m), gets these rows in this order, with
        the addresses as zeroes.
        """
        if (mm == mm[:1]).all():
            mm = mm[:1]
        least, end = self._least[mm].min(), self._end[mm].max()
        if least >= end:
            return np.zeros(0, np.int64)
        outside = self._outside(words, least, end - least)  # half the work of a range for each row
        rows = np.flatnonzero(~outside.all(axis=1))
        some = words
        if len(rows) < len(words):
            some = np.take(words, rows, axis=0, out=out[: len(rows)], mode="clip")
            outside = outside[rows]
        if len(mm) > 1:
            mm = mm[rows]
            outside = self._outside(some, self._least[mm], self._bytes[mm])
        if self._gap_bytes[mm].any():
            outside |= ~self._outside(some, self._gap[mm], self._gap_bytes[mm])
        has = ~outside.all(axis=1)
        if not has.all():
            rows, some, outside = rows[has], some[has], outside[has]
        np.multiply(some, outside, out=out[: len(rows)])
        return rows

    def _outside(self, words: Words, start: npt.ArrayLike, size: npt.ArrayLike) -> Mask:
        """bool (n, m): which of ``words`` are not in the ``size`` bytes from ``start`` on."""
        if self._room.size < words.size:
            self._room = np.empty(words.size, np.uint64)  # fresh memory costs more than work
        distance = self._room[: words.size].reshape(words.shape)
        outside: Mask = np.subtract(words, start, out=distance) >= size
        return outside


def _outermost(
    mms: int, mm: npt.NDArray[np.uint32], start: Words, end: Words
) -> tuple[Words, Words]:
    """The least ``start`` and the most ``end`` of each mm, u64 (mms + 1, 1).

    Of one without, and in the last row: the greatest number, and 0.
    """
    least, most = np.full((mms + 1, 1), _MOST), np.zeros((mms + 1, 1), np.uint64)
    np.minimum.at(least[:, 0], mm, start)
    np.maximum.at(most[:, 0], mm, end)
    return least, most


class Further:
    """Makes the hashes that are ``wanted``, with the ``seed`` of all hashes.

    ``areas``: of the system's mms as they are now. ``room``: for the pages, to be filled.
    """

    def __init__(self, wanted: Wanted, seed: int, areas: Areas, page_bytes: int) -> None:
        self.wanted, self.room = wanted, PageRoom(PAGES_AT_ONCE, page_bytes)
        self._areas, self._digest = areas, digest_of(seed)
        self._parts: dict[str, list[memoryview]] = {}
        if wanted.near:
            self._parts["near_hash"] = self.room.parts(END_BYTES, page_bytes - END_BYTES)
            self._without = PageRoom(PAGES_AT_ONCE, page_bytes)
        if wanted.pieces:
            size = piece_bytes(page_bytes)
            for number in range(page_bytes // size):
                piece = self.room.parts(number * size, (number + 1) * size)
                self._parts[f"piece_hash_{number}"] = piece

    def hashes(self, mm: Ints) -> Columns:
        """``hash`` and the columns of ``Wanted.columns``, u64 (n,), of the first pages of ``room``.

        ``mm``: (n,) whose addresses are none of the content: the first that maps the page, -1 for
        none.
        """
        whole = self._of(self.room.whole[: len(mm)])
        found: Columns = {"hash": whole}
        for name, parts in self._parts.items():
            found[name] = self._of(parts[: len(mm)])
        if self.wanted.near:
            found["no_address_hash"] = without = whole.copy()
            words, room = (each.data.view(np.uint64) for each in (self.room, self._without))
            rows = self._areas.without_addresses(words[: len(mm)], mm, room)
            without[rows] = self._of(self._without.whole[: len(rows)])
        return found

    def _of(self, contents: list[memoryview]) -> Words:
        return np.fromiter(self._digest(contents), np.uint64, len(contents))

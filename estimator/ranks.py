"""How many of many rows are chosen before each: a fifth of a byte for a row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Numbers

_WORD_BITS = 64
_ROWS_AT_ONCE = 1 << 16  # of whole words


class Ranks:
    """Of so many ``rows`` those that ``of`` chooses, asked for a piece of them in order.

    ``total``: how many they are.
    """

    def __init__(self, rows: int, of: Callable[[slice], Mask]) -> None:
        self._words = np.zeros(rows // _WORD_BITS + 1, np.uint64)
        bits = self._words.view(np.uint8)
        for begin in range(0, rows, _ROWS_AT_ONCE):
            piece = slice(begin, min(begin + _ROWS_AT_ONCE, rows))
            some = np.packbits(of(piece), bitorder="little")
            bits[begin // 8 : begin // 8 + len(some)] = some
        counts = np.bitwise_count(self._words)
        self._before = np.cumsum(counts, dtype=np.int32) - counts
        self.total = int(counts.sum())

    def holds(self, rows: npt.NDArray[np.integer]) -> Mask:
        """Which of ``rows`` are chosen."""
        word, bit = self._places(rows)
        chosen: Mask = (self._words.take(word) >> bit) & np.uint64(1) != 0
        return chosen

    def before(self, rows: npt.NDArray[np.integer]) -> Numbers:
        """How many are chosen before each of ``rows``; of all, where that is one past the end."""
        word, bit = self._places(rows)
        below = self._words.take(word) & ((np.uint64(1) << bit) - np.uint64(1))
        found: Numbers = self._before.take(word) + np.bitwise_count(below)
        return found

    @staticmethod
    def _places(rows: npt.NDArray[np.integer]) -> tuple[Ints, npt.NDArray[np.uint64]]:
        word = rows.astype(np.int64) // _WORD_BITS
        return word, (rows % _WORD_BITS).astype(np.uint64)

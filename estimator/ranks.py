"""How many of many numbers are chosen before each: a fifth of a byte for a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Words

_WORD_BITS = 64
_TO_WORD, _BITS, _ONE = np.uint64(6), np.uint64(63), np.uint64(1)
_ROWS_AT_ONCE = 1 << 16  # of whole words


class Ranks:
    """Numbers from 0 on, those chosen that have a bit in ``words`` (u64), the lowest bit first.

    ``total``: how many they are.
    """

    def __init__(self, words: Words) -> None:
        counts = np.bitwise_count(words)
        self._words = words
        self._before = np.cumsum(counts, dtype=np.uint32) - counts
        self.total = int(counts.sum())

    @classmethod
    def of(cls, rows: int, chosen: Callable[[slice], Mask]) -> Ranks:
        """Of so many ``rows`` those that are ``chosen``, asked for a piece of them in order."""
        words = np.zeros(rows // _WORD_BITS + 1, np.uint64)
        bits = words.view(np.uint8)
        for begin in range(0, rows, _ROWS_AT_ONCE):
            piece = slice(begin, min(begin + _ROWS_AT_ONCE, rows))
            some = np.packbits(chosen(piece), bitorder="little")
            bits[begin // 8 : begin // 8 + len(some)] = some
        return cls(words)

    def holds(self, numbers: npt.NDArray[np.integer]) -> Mask:
        """Which of ``numbers`` are chosen."""
        at = numbers.astype(np.uint64, copy=False)
        return ((self._words[_word(at)] >> (at & _BITS)) & _ONE).astype(np.bool_)

    def before(self, numbers: npt.NDArray[np.integer]) -> Ints:
        """How many are chosen before each of ``numbers``; of rows also one past the end."""
        at = numbers.astype(np.uint64, copy=False)
        word = _word(at)
        lower = self._words[word] & ((_ONE << (at & _BITS)) - _ONE)
        return self._before[word].astype(np.int64) + np.bitwise_count(lower)


def _word(at: Words) -> Ints:
    return (at >> _TO_WORD).view(np.int64)

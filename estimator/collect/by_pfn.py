"""A value for each of many frames, found by the frame's number."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Words
from estimator.packed import Packed
from estimator.ranks import Ranks

_DENSE = 2  # a table of all PFNs is made if one in so many is used
_SCATTERED = 1024  # a map of them, bit by bit, if one in so many is
_SMALL = 1 << 19  # PFNs: a map of 64 KiB is always allowed
_WORD_BITS = np.uint64(6)
_BITS, _ONE = np.uint64(63), np.uint64(1)


class ByPfn:
    """A value for each of the frames ``pfns`` (ascending, distinct); ``fill`` until it is put."""

    def __init__(self, pfns: Packed, dtype: npt.DTypeLike, fill: int) -> None:
        first, span = span_of(pfns)
        self._places: _Places
        if span <= _DENSE * len(pfns):
            self._places = _All(first, span)
        elif span <= _SCATTERED * len(pfns) + _SMALL:
            self._places = _Map(first, span, pfns)
        else:
            self._places = _List(pfns)
        self._values = np.full(self._places.size, fill, dtype)

    def put(self, pfns: Words, values: Any) -> None:
        """Set the values of ``pfns``, all of them among the frames; of equal ones the last."""
        self._values[self._places.of(pfns)] = values

    def of(self, pfns: Words) -> npt.NDArray[Any]:
        """The values of ``pfns``, all of them among the frames."""
        return self._values[self._places.of(pfns)]

    def has(self, pfns: Words) -> Mask:
        """Which of ``pfns`` have a place: surely those that are among the frames."""
        return self._places.has(pfns)


def span_of(pfns: Packed) -> tuple[int, int]:
    """The lowest PFN, and how many there are from it up to the highest."""
    if pfns.extremes is None:
        return 0, 0
    lowest, highest = pfns.extremes
    return lowest, highest - lowest + 1


class _Places(Protocol):
    """Where the values of PFNs stand. ``size``: how many places there are."""

    size: int

    def of(self, pfns: Words) -> Ints: ...

    def has(self, pfns: Words) -> Mask: ...


class _All:
    """A place for each PFN from the lowest to the highest."""

    def __init__(self, first: int, span: int) -> None:
        self._first, self.size = np.uint64(first), span

    def of(self, pfns: Words) -> Ints:
        return (pfns - self._first).view(np.int64)

    def has(self, pfns: Words) -> Mask:
        return (pfns - self._first) < np.uint64(self.size)


class _Map:
    """A bit for each PFN from the lowest to the highest, and the places of those that are set."""

    def __init__(self, first: int, span: int, pfns: Packed) -> None:
        self._first, self._span, self.size = np.uint64(first), np.uint64(span), len(pfns)
        words = np.zeros(-(-span // 64), np.uint64)
        for piece in pfns.pieces():
            at = piece - self._first
            np.bitwise_or.at(words, (at >> _WORD_BITS).view(np.int64), _ONE << (at & _BITS))
        self._ranks = Ranks(words)

    def of(self, pfns: Words) -> Ints:
        return self._ranks.before(pfns - self._first)

    def has(self, pfns: Words) -> Mask:
        at = pfns - self._first
        within = at < self._span
        return within & self._ranks.holds(np.where(within, at, np.uint64(0)))


class _List:
    """The PFNs themselves: those of a damaged dump may be anywhere."""

    def __init__(self, pfns: Packed) -> None:
        self._pfns: Words = pfns[:]
        self.size = len(self._pfns)

    def of(self, pfns: Words) -> Ints:
        return np.searchsorted(self._pfns, pfns)

    def has(self, pfns: Words) -> Mask:
        row = np.minimum(self.of(pfns), self.size - 1)
        return self._pfns[row] == pfns

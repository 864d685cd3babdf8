"""Numbers in order: intervals, runs, and which were met before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from estimator.arrays import Mask, Words

_MOST = 2**64 - 1


@dataclass(frozen=True)
class Intervals:
    """Disjoint intervals [start, end), ascending; u64 (n,)."""

    start: Words
    end: Words

    def hold(self, start: Words, end: Words) -> tuple[npt.NDArray[np.int64], Mask]:
        """The interval that may hold each [start, end), and whether it does."""
        index = np.searchsorted(self.start, start, side="right") - 1
        holds = index >= 0
        holds[holds] = end[holds] <= self.end[index[holds]]
        return index, holds


def between(outer: Intervals, inner: Intervals) -> Iterator[tuple[int, int]]:
    """Start and size of what lies in ``outer``, but not in ``inner``."""
    at = 0
    parts = list(zip(inner.start.tolist(), inner.end.tolist(), strict=True))
    for start, end in zip(outer.start.tolist(), outer.end.tolist(), strict=True):
        while at < len(parts) and parts[at][0] < end:
            if parts[at][0] > start:
                yield start, parts[at][0] - start
            start = max(start, parts[at][1])
            if parts[at][1] > end:
                break  # it may reach into the next one
            at += 1
        if start < end:
            yield start, end - start


def disjoint(start: Words, end: Words, offset: Words) -> tuple[Intervals, Words]:
    """The union of intervals that may overlap, and the offset that belongs to each start.

    Dumps by virtual address (kdump's kernel text, QEMU with paging) have memory more than once.
    Adjoining intervals become one if their offsets adjoin too.
    """
    order = np.lexsort((offset, start))
    start, end, offset = start[order], end[order], offset[order]
    covered = np.concatenate([np.zeros(1, np.uint64), np.maximum.accumulate(end)[:-1]])[: len(end)]
    begin = np.maximum(start, covered)
    rest = begin < end
    offset = offset[rest] + (begin - start)[rest]
    begin, end = begin[rest], end[rest]
    new = (begin[1:] != end[:-1]) | (offset[1:] != offset[:-1] + (end - begin)[:-1])
    edge = np.ones(min(len(begin), 1), np.bool_)
    first, last = np.concatenate([edge, new]), np.concatenate([new, edge])
    return Intervals(begin[first], end[last]), offset[first]


def runs(numbers: Words, span: int, step: int = 1) -> Iterator[tuple[int, int]]:
    """Ints [start, stop) of ascending runs of ``numbers``, with steps of at most ``step``.

    The last number of a run is less than ``span`` above the first.
    """
    ascends = (numbers[1:] > numbers[:-1]) & (numbers[1:] - numbers[:-1] <= np.uint64(step))
    breaks = np.flatnonzero(~ascends) + 1
    for begin, end in pairwise([0, *breaks.tolist(), len(numbers)]):
        start = begin
        if begin < end and int(numbers[end - 1]) - int(numbers[begin]) == end - 1 - begin:
            for start in range(begin, end, span):  # without gaps
                yield start, min(start + span, end)
            continue
        while start < end:
            last = np.uint64(min(int(numbers[start]) + span - 1, _MOST))
            stop = start + int(np.searchsorted(numbers[start:end], last, side="right"))
            yield start, stop
            start = stop


def first_of_each(values: Words) -> Mask:
    """Where a value stands for the first time."""
    first = np.zeros(len(values), np.bool_)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def met_first(seen: set[int], values: Words) -> Mask:
    """Which of ``values`` are not in ``seen`` and stand for the first time; all are in it then."""
    new = np.ones(len(values), np.bool_)
    numbers = values.tolist()
    distinct = set(numbers)
    if len(distinct) < len(numbers) or not seen.isdisjoint(distinct):
        new = first_of_each(values)
        new &= np.array([number not in seen for number in numbers])
    seen |= distinct
    return new

"""Millions of rows, a piece at a time: what is temporary fits the cache and costs no fresh memory.

NumPy copies all of an array of indices as int64 first. Memory that a process touches for the first
time can cost more than the work on it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from estimator.errors import CannotAnswerError

Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]  # rows, frames, contents: 2^31 pages are 8 TiB
Bytes = npt.NDArray[np.uint8]
Narrow = npt.NDArray[np.integer]  # what ``narrow`` makes
Columns = dict[str, npt.NDArray[Any]]  # of a table, by name
Empty = Callable[[int, npt.DTypeLike], npt.NDArray[Any]]
"""Makes an array of so many elements of a type, as ``np.empty`` does, in memory or elsewhere."""

Rows = slice | Ints | Numbers
Where = Callable[[Rows], Mask]  # which of some rows

T = TypeVar("T")
Found = TypeVar("Found")

_PIECE_ROWS = 65_536
_MANY_ROWS = 1 << 20  # fewer are done before a thread has begun

KEY_PAGE_BITS = np.uint64(45)  # a 57-bit address space in pages
_MOST_MMS = 1 << 64 - int(KEY_PAGE_BITS)


def page_keys(mm: npt.NDArray[Any], page: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Pages of many mms as one number each, u64 (n,): by mm, then by address.

    ``mm``: its number, from 0 on. ``page``: address >> page shift. Raises CannotAnswerError where
    there are more mms than such a number has room for.
    """
    if len(mm) and int(mm.max()) >= _MOST_MMS:
        raise CannotAnswerError(f"more than {_MOST_MMS:,} processes are too many for this program")
    keys: npt.NDArray[np.uint64] = (mm.astype(np.uint64) << KEY_PAGE_BITS) | page
    return keys


def of_rows(columns: Columns, rows: npt.NDArray[Any]) -> Columns:
    """The rows of a table that ``rows`` says, as numbers or as truths."""
    return {name: values[rows] for name, values in columns.items()}


def pieces(rows: int) -> Iterator[slice]:
    """Slices that cover ``rows``, in order."""
    for begin in range(0, rows, _PIECE_ROWS):
        yield slice(begin, min(begin + _PIECE_ROWS, rows))


def usable_cpus() -> int:
    """The CPUs that this process may use; all of them where only Linux could tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


THREADS = min(4, usable_cpus())


def each_piece(rows: int, do: Callable[[slice], None]) -> None:
    """``do`` what is to be done with each of ``pieces``, in any order.

    Several at once where there are many: NumPy lets other threads run meanwhile.
    """
    if rows < _MANY_ROWS or THREADS == 1:
        for piece in pieces(rows):
            do(piece)
        return
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(do, pieces(rows)):
            pass


class FirstOf:
    """Where numbers from 0 to ``size`` - 1 occur first; i32 for each, in memory for all calls."""

    def __init__(self, size: int, empty: Empty = np.empty) -> None:
        self._row = empty(size, np.int32)

    def row(self, numbers: npt.NDArray[np.integer]) -> Numbers:
        """The first row of each one's number, i32 per row of ``numbers``.

        In several threads at once only where they look at different numbers; AssertionError where
        it is noticed that they do not.
        """
        for piece in reversed(list(pieces(len(numbers)))):
            backwards = np.arange(piece.stop - 1, piece.start - 1, -1, dtype=np.int32)
            self._row[numbers[piece][::-1]] = backwards
        row = np.empty(len(numbers), np.int32)
        for piece in pieces(len(numbers)):
            row[piece] = self._row.take(numbers[piece])
            if not np.array_equal(numbers.take(row[piece], mode="clip"), numbers[piece]):
                raise AssertionError("two threads looked at the same numbers")
        return row


class Met:
    """Which of the numbers from 0 to ``size`` - 1 have come already; i32 for each."""

    def __init__(self, size: int, empty: Empty = np.empty) -> None:
        self._row = empty(size, np.int32)
        self._row[:] = -1

    def new(self, numbers: npt.NDArray[np.integer]) -> Mask:
        """Which of ``numbers`` come for the first time; several threads as for ``FirstOf``."""
        fresh: Mask = self._row.take(numbers) < 0
        order = np.arange(len(numbers), dtype=np.int32)
        self._row[numbers[::-1]] = order[::-1]
        fresh &= self._row.take(numbers) == order
        return fresh


class Appended:
    """So many ``columns`` of at most ``rows``, i32, which come a piece at a time."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = np.empty((columns, rows), np.int32)
        self._rows = 0

    def add(self, *values: npt.NDArray[np.integer]) -> None:
        """Append to each column its ``values``."""
        end = self._rows + len(values[0])
        for column, some in zip(self._columns, values, strict=True):
            column[self._rows : end] = some
        self._rows = end

    @property
    def columns(self) -> Numbers:
        """(columns, rows), of the rows that have come."""
        return self._columns[:, : self._rows]


def in_turn(
    do: Callable[[T], Found], items: Iterable[T], threads: int | None = None
) -> Iterator[Found]:
    """What ``do`` gives for each of ``items``, in their order; the next ones are done meanwhile.

    By so many ``threads``, without it ``THREADS``; one is none beside us.
    """
    threads = threads or THREADS
    if threads == 1:
        yield from map(do, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[Found]] = deque()
        for item in items:
            coming.append(pool.submit(do, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same; a thread makes the next one meanwhile."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming: Future[T | object] = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield cast(T, item)


def alike(mask: Mask) -> Mask:
    """``mask``, as a single truth in memory where all are the same: to be read alone then."""
    if mask.any() and not mask.all():
        return mask
    return np.broadcast_to(np.bool_(mask.any()), len(mask))


def at(values: npt.NDArray[Any], rows: Rows | npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """``values[rows]``."""
    return values[rows] if isinstance(rows, slice) else values.take(rows)


def take(
    values: npt.NDArray[Any], index: npt.NDArray[Any], empty: Empty = np.empty
) -> npt.NDArray[Any]:
    """``values[index]``, in half of the time; negative numbers count from the end."""
    return made(len(index), values.dtype, lambda piece: values.take(index[piece]), empty)


def find(ordered: Words, wanted: Words) -> tuple[Ints, Mask]:
    """Where ``wanted`` (u64 (m,), in any order) stands in ``ordered`` (u64 (n,), ascending).

    Returns the row in ``ordered`` of each one that is there, i64 (k,), in the order of ``wanted``,
    the first row where equal ones stand there; and which ones are there, bool (m,).
    """
    rows, found = np.empty(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    at = 0
    for piece in pieces(len(wanted) if len(ordered) else 0):
        row = np.minimum(np.searchsorted(ordered, wanted[piece]), len(ordered) - 1)
        found[piece] = same = ordered[row] == wanted[piece]
        here = row[same]
        rows[at : at + len(here)] = here
        at += len(here)
    return rows[:at], found


def count(
    numbers: npt.NDArray[Any], size: int, *, empty: Empty = np.empty, ignore: int | None = None
) -> npt.NDArray[np.int32]:
    """How often each number from 0 to ``size`` - 1 is there; ``ignore`` is no such number."""
    counts = empty(size, np.int32)
    counts[:] = 0
    for piece in pieces(len(numbers)):
        here = numbers[piece]
        np.add.at(counts, here if ignore is None else here[here != ignore], np.int32(1))
    return counts


def made(
    rows: int, dtype: npt.DTypeLike, of: Callable[[slice], npt.NDArray[Any]], empty: Empty
) -> npt.NDArray[Any]:
    """An array of so many ``rows``; ``of`` gives a piece of it, in any order."""
    values = empty(rows, dtype)

    def make(piece: slice) -> None:
        values[piece] = of(piece)

    each_piece(rows, make)
    return values


def rows_where(rows: int, of: Callable[[slice], Mask], empty: Empty = np.empty) -> Ints:
    """``np.flatnonzero`` of so many ``rows``; ``of`` gives a piece of them, each time the same."""
    return _where(rows, of, empty(count_where(rows, of), np.int64))


def numbers_where(mask: Mask, empty: Empty) -> Numbers:
    """``np.flatnonzero(mask)`` as i32, in an array that ``empty`` makes."""
    numbers = empty(int(np.count_nonzero(mask)), np.int32)
    return _where(len(mask), lambda piece: mask[piece], numbers)


def _where(rows: int, of: Callable[[slice], Mask], found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Fill ``found``, which has just the size for it."""
    at = 0
    for piece in pieces(rows):
        here = np.flatnonzero(of(piece))
        found[at : at + len(here)] = here + piece.start
        at += len(here)
    return found


def count_where(rows: int, of: Callable[[slice], Mask]) -> int:
    """``np.count_nonzero`` of so many ``rows``; ``of`` gives a piece of them."""
    return sum(int(np.count_nonzero(of(piece))) for piece in pieces(rows))


def distinct(words: Words) -> int:
    """How many different ones there are; sorts ``words`` in place."""
    words.sort()
    size = len(words)
    return min(size, 1) + count_where(
        max(size - 1, 0), lambda piece: words[1:][piece] != words[:-1][piece]
    )


def ascending(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As ``np.unique``, whose hash table takes many times as long for millions."""
    ordered = np.sort(numbers)
    new = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def narrow(values: Narrow, empty: Empty = np.empty) -> Narrow:
    """``values``, in a type of one or two bytes if that holds them: no numbers to reckon with."""
    least, most = int(values.min(initial=0)), int(values.max(initial=0))
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return made(len(values), dtype, lambda piece: values[piece], empty)
    return values


def move_up(values: npt.NDArray[Any], keep: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """``values[keep]`` in the memory of ``values``."""
    at = 0
    for piece in pieces(len(values)):
        kept = values[piece][keep[piece]]
        values[at : at + len(kept)] = kept
        at += len(kept)
    return values[:at]

"""Long columns in little memory: a piece at a time, as runs or in the narrowest type.

What a kernel says of pages is the same, or goes up by one, over many of them. Such a column is
written once, from its first row on, and read once or a few times, in the same order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns, Mask

PIECE_ROWS = 1 << 16
_PLACE = np.uint16  # of a row in its piece
_STEPS = (1, 0, -1)
_SAMPLE = 1024

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Runs:
    """Rows that go on by ``step`` from each of ``start`` on, where they are ``first``."""

    start: Array
    first: Array
    step: int
    rows: int

    def unpacked(self) -> Array:
        dtype = self.first.dtype
        up = np.arange(self.rows, dtype=dtype) if self.step else None
        first = self.first - self.start.astype(dtype) * np.array(self.step).astype(dtype)
        if len(first) == 1:
            rows = np.full(self.rows, first[0])
        else:
            rows = np.repeat(first, np.diff(np.append(self.start.astype(np.int64), self.rows)))
        if up is not None:
            (np.add if self.step > 0 else np.subtract)(rows, up, out=rows)
        return rows


@dataclass(frozen=True)
class _Narrow:
    """Rows of ``base`` plus ``above``."""

    base: Array
    above: Array

    def unpacked(self) -> Array:
        return self.above.astype(self.base.dtype) + self.base


class Packed:
    """A column of integers or truths; ``append`` adds rows, slices give arrays of ``dtype``.

    With ``nullable`` both are masked arrays where something is null.
    """

    def __init__(self, dtype: npt.DTypeLike, *, nullable: bool = False) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.null = Packed(np.bool_) if nullable else None
        self._unsigned = np.dtype(f"u{self.dtype.itemsize}")
        self._pieces: deque[_Runs | _Narrow] = deque()
        self._rest = np.empty(0, self._unsigned)
        self._waiting = 0  # rows of it
        self._extremes: tuple[int, int] | None = None

    @classmethod
    def of(cls, values: Array) -> Packed:
        """A column of ``values``; nullable if they are masked."""
        column = cls(values.dtype, nullable=isinstance(values, np.ma.MaskedArray))
        column.append(values)
        return column

    def append(self, values: Array) -> None:
        """Add rows; raises TypeError for another type."""
        if values.dtype != self.dtype:
            raise TypeError(f"rows are {values.dtype}, not {self.dtype}")
        if self.null is not None:
            self.null.append(np.ma.getmaskarray(values))
        numbers = np.ma.getdata(values).view(self._unsigned)
        while len(numbers):
            if not self._waiting and len(numbers) >= PIECE_ROWS:
                self._pack(numbers[:PIECE_ROWS])
                numbers = numbers[PIECE_ROWS:]
                continue
            if not len(self._rest):
                self._rest = np.empty(PIECE_ROWS, self._unsigned)
            room = self._rest[self._waiting :][: len(numbers)]
            room[:] = numbers[: len(room)]
            self._waiting += len(room)
            numbers = numbers[len(room) :]
            if self._waiting == PIECE_ROWS:
                self._pack(self._rest)
                self._waiting = 0

    @property
    def extremes(self) -> tuple[int, int] | None:
        """The lowest and the highest of what was appended, as unsigned; None: nothing was."""
        if not self._waiting:
            return self._extremes
        rest = self._rest[: self._waiting]
        return _outermost(self._extremes, (int(rest.min()), int(rest.max())))

    def __len__(self) -> int:
        return len(self._pieces) * PIECE_ROWS + self._waiting

    def __getitem__(self, rows: slice) -> Array:
        begin, end, _ = rows.indices(len(self))
        values = np.empty(max(end - begin, 0), self._unsigned)
        for number in range(begin // PIECE_ROWS, -(-end // PIECE_ROWS) if end > begin else 0):
            at = number * PIECE_ROWS
            first, last = max(begin, at), min(end, at + PIECE_ROWS)
            values[first - begin : last - begin] = self._piece(number)[first - at : last - at]
        shown = values.view(self.dtype)
        return shown if self.null is None else np.ma.MaskedArray(shown, self.null[rows])

    def pieces(self) -> Iterator[Array]:
        """All rows, in arrays of ``PIECE_ROWS`` and a last one of fewer."""
        nulls = None if self.null is None else self.null.pieces()
        for number in range(-(-len(self) // PIECE_ROWS)):
            shown = self._piece(number).view(self.dtype)
            yield shown if nulls is None else np.ma.MaskedArray(shown, next(nulls))

    def drained(self) -> Iterator[Array]:
        """The same, and each piece is gone once it was given."""
        nulls = None if self.null is None else self.null.drained()
        while len(self):
            values = self._piece(0)
            if self._pieces:
                self._pieces.popleft()
            else:
                self._waiting = 0
            shown = values.view(self.dtype)
            yield shown if nulls is None else np.ma.MaskedArray(shown, next(nulls))

    def change(self, number: int, values: Array) -> None:
        """Put ``values`` in the place of the piece ``number``."""
        numbers = values.view(self._unsigned)
        if number < len(self._pieces):
            self._pieces[number] = _packed(numbers, int(numbers.min()), int(numbers.max()))
        else:
            self._rest[: self._waiting] = numbers

    def _piece(self, number: int) -> Array:
        if number < len(self._pieces):
            return self._pieces[number].unpacked()
        return self._rest[: self._waiting].copy()

    def _pack(self, numbers: Array) -> None:
        lowest, highest = int(numbers.min()), int(numbers.max())
        self._extremes = _outermost(self._extremes, (lowest, highest))
        self._pieces.append(_packed(numbers, lowest, highest))


def _outermost(one: tuple[int, int] | None, other: tuple[int, int]) -> tuple[int, int]:
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))


def side_by_side(columns: Mapping[str, Packed]) -> Iterator[Columns]:
    """The pieces of columns of one length."""
    for values in zip(*(column.pieces() for column in columns.values()), strict=True):
        yield dict(zip(columns, values, strict=True))


def used_up(columns: Mapping[str, Packed]) -> Iterator[Columns]:
    """The same, ``drained``."""
    for values in zip(*(column.drained() for column in columns.values()), strict=True):
        yield dict(zip(columns, values, strict=True))


def add(columns: Mapping[str, Packed], values: Columns, rows: Mask | None = None) -> None:
    """Append to each of ``columns`` its ``values``, or ``rows`` of them."""
    every = rows is None or bool(rows.all())
    for name, column in columns.items():
        column.append(values[name] if every else values[name][rows])


def packed(columns: Columns) -> dict[str, Packed]:
    """Columns of these values."""
    return {name: Packed.of(values) for name, values in columns.items()}


def like(columns: Mapping[str, Packed]) -> dict[str, Packed]:
    """Columns without rows of the same names and types."""
    return {
        name: Packed(column.dtype, nullable=column.null is not None)
        for name, column in columns.items()
    }


def _packed(numbers: Array, lowest: int, highest: int) -> _Runs | _Narrow:
    if lowest == highest:
        return _Runs(np.zeros(1, _PLACE), numbers[:1].copy(), 0, len(numbers))
    narrow: np.dtype[Any] = np.min_scalar_type(highest - lowest)
    size = np.dtype(_PLACE).itemsize + numbers.itemsize
    difference = numbers[1:] - numbers[:-1]
    for step in _STEPS:
        step_up = np.array(step).astype(numbers.dtype)
        sample = difference[:_SAMPLE] != step_up
        if np.count_nonzero(sample) > len(sample) // 2:
            continue  # spares hashes the rest of the search
        breaks = difference != step_up
        if (1 + np.count_nonzero(breaks)) * size < len(numbers) * narrow.itemsize:
            start = np.append(0, np.flatnonzero(breaks) + 1)
            return _Runs(start.astype(_PLACE), numbers[start], step, len(numbers))
    base = np.array(lowest, numbers.dtype)
    return _Narrow(base, (numbers - base).astype(narrow))

"""The mappings in parts: those of one content together, of frames that end as one, or of a frame.

What goes content by content needs no more at once.

How many parts there are depends on the number of mappings alone, so sums of fractions come out the
same wherever they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from estimator.arrays import Empty, Ints, pieces

_ROWS_OF_A_PART = 1 << 17


def rows_by_content(
    content: npt.NDArray[np.int32],
    frame_of_row: npt.NDArray[np.integer],
    empty: Empty = np.empty,
) -> Iterator[Ints]:
    """The rows of ``mappings`` (i64, ascending) part by part, each row once.

    ``content``: per frame, -1 where it is not known. ``frame_of_row``: per row. ``empty``: makes
    an array of all rows.
    """
    return rows_by(len(frame_of_row), lambda piece: content.take(frame_of_row[piece]), empty)


def rows_by_end(
    end_of: Callable[[slice, npt.NDArray[np.int32]], npt.NDArray[np.int32]],
    frame_of_row: npt.NDArray[np.integer],
    empty: Empty = np.empty,
) -> Iterator[Ints]:
    """The same, those together that end on one frame.

    ``end_of``: of a piece of rows and their frames, on which frame each ends; -1 for none, it comes
    with its own.
    """

    def number_of(piece: slice) -> npt.NDArray[np.int32]:
        frame = frame_of_row[piece].astype(np.int32)
        end = end_of(piece, frame)
        return np.where(end >= 0, end, frame)

    return rows_by(len(frame_of_row), number_of, empty)


def rows_by_number(number: npt.NDArray[np.integer], empty: Empty = np.empty) -> Iterator[Ints]:
    """The rows of ``number`` (i64, ascending) part by part, those of equal numbers together."""
    return rows_by(len(number), lambda piece: number[piece], empty)


def rows_by_frame(rows: Ints, frame_of_row: npt.NDArray[np.integer]) -> Iterator[Ints]:
    """``rows`` part by part where they are many, those of one frame together."""
    parts = len(rows) // (2 * _ROWS_OF_A_PART) + 1
    if parts == 1:
        yield rows
        return
    part_of_row = np.empty(len(rows), np.uint16)
    for piece in pieces(len(rows)):
        part_of_row[piece] = frame_of_row.take(rows[piece]) % parts
    for part in range(parts):
        yield rows[part_of_row == part]


def parts_of(rows: int) -> int:
    """How many parts so many rows come in. Number n is in part n % parts."""
    return min(rows // _ROWS_OF_A_PART + 1, 1 << 16)


def rows_by(
    rows: int, number_of: Callable[[slice], npt.NDArray[np.integer]], empty: Empty = np.empty
) -> Iterator[Ints]:
    """So many ``rows`` (i64, ascending) part by part, those of equal numbers together.

    ``number_of``: the numbers of a piece of them, asked twice.
    """
    parts = parts_of(rows)

    def part_of(piece: slice) -> npt.NDArray[np.uint16]:
        return (number_of(piece) % parts).astype(np.uint16)

    sizes = np.zeros(parts, np.int64)
    for piece in pieces(rows):
        sizes += np.bincount(part_of(piece), minlength=parts)
    ends = np.cumsum(sizes)
    in_order, next_place = empty(rows, np.uint32), ends - sizes
    for piece in pieces(rows):
        part = part_of(piece)
        here = np.argsort(part, kind="stable")
        sizes_here = np.bincount(part, minlength=parts)
        skipped = next_place - (np.cumsum(sizes_here) - sizes_here)
        in_order[np.arange(len(part)) + np.repeat(skipped, sizes_here)] = here + piece.start
        next_place += sizes_here
    for begin, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
        yield in_order[begin:end].astype(np.int64)

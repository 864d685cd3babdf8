"""The mappings in parts, those of one content together: what goes content by content needs no more.

How many parts there are depends on the number of mappings alone, so sums of fractions come out the
same wherever they are made.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, pieces, take

_ROWS_OF_A_PART = 1 << 19
_MOST_PARTS = 16  # each looks at all mappings once


def rows_by_content(
    content: npt.NDArray[np.int32], frame_of_row: npt.NDArray[np.integer]
) -> Iterator[Ints]:
    """The rows of ``mappings`` (i64, ascending) part by part, each row once.

    ``content``: per frame, -1 where it is not known. ``frame_of_row``: per row.
    """
    parts = min(len(frame_of_row) // _ROWS_OF_A_PART + 1, _MOST_PARTS)
    part_of_frame = np.empty(len(content), np.uint8)
    for piece in pieces(len(content)):
        part_of_frame[piece] = content[piece] % np.int32(parts)
    for part in range(parts):
        yield np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    np.flatnonzero(take(part_of_frame, frame_of_row[piece]) == part) + piece.start
                    for piece in pieces(len(frame_of_row))
                ),
            ]
        )

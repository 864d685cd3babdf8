"""Large folios whose pages' mappings the kernel does not count (CONFIG_NO_PAGE_MAPCOUNT)."""

from __future__ import annotations

import numpy as np
import pytest

from estimator.arrays import Columns
from estimator.kernel.mapcounts import derive_mapcounts
from estimator.packed import packed
from estimator.snapshot.flags import FrameFlag, MappingFlag

LARGE, HUGE = int(FrameFlag.LARGE), int(MappingFlag.HUGE)
# frames: two pages of a large folio, one small page. mappings: (frame, flags)
OWN = [(0, 0), (0, 0), (1, 0), (2, 0)]
BOTH = [(0, HUGE), (1, HUGE), (0, 0), (2, 0)]


def derived(rows: list[tuple[int, int]], mapcounts: list[int]) -> tuple[int, list[int]]:
    mappings: Columns = {
        "frame_id": np.array([frame for frame, _ in rows], np.uint32),
        "flags": np.array([flags for _, flags in rows], np.uint8),
    }
    large = np.array([LARGE, LARGE, 0], np.uint32)
    frames = packed({"flags": large, "mapcount": np.array(mapcounts, np.int32)})
    count = derive_mapcounts(packed(mappings), frames)
    assert str(frames["mapcount"].dtype) == "int32"
    return count, frames["mapcount"][:].tolist()


@pytest.mark.parametrize(
    ("rows", "kept", "expected"),
    [
        (OWN, [0, 0, 1], (2, [2, 1, 1])),
        (BOTH, [1, 1, 1], (1, [2, 1, 1])),  # of a huge entry they are counted
    ],
)
def test_what_was_found_takes_the_place_of_what_is_not_counted(
    rows: list[tuple[int, int]], kept: list[int], expected: tuple[int, list[int]]
) -> None:
    assert derived(rows, kept) == expected


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (OWN, [2, 1, 1]),
        (OWN, [5, 3, 1]),  # others map it too
        (OWN, [2, 0, 1]),  # one is counted, so all are
        (BOTH, [2, 1, 1]),
        ([(0, HUGE), (1, HUGE), (2, 0)], [1, 1, 1]),
        ([(2, 0)], [0, 0, 1]),
        ([], [0, 0, 0]),
    ],
)
def test_counts_that_are_kept_stay(rows: list[tuple[int, int]], kept: list[int]) -> None:
    assert derived(rows, kept) == (0, kept)

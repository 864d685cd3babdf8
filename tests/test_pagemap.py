"""Entries of /proc/PID/pagemap and the VMAs that they are in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from estimator.procfs.pagemap import _in_vmas


@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=12),
    first=st.integers(0, 40),
    wanted=st.lists(st.booleans(), max_size=60),
)
def test_entries_in_vmas(sizes: list[tuple[int, int]], first: int, wanted: list[bool]) -> None:
    """VMAs with gaps between them; the piece may begin and end anywhere."""
    bounds, at = list[tuple[int, int]](), 10
    for gap, pages in sizes:
        bounds.append((at + gap, at + gap + pages))
        at += gap + pages
    starts, ends = (np.array(column, np.uint64) for column in zip(*bounds, strict=True))
    place, vma = _in_vmas(np.array(wanted, np.bool_), np.uint64(first), starts, ends)
    expected = [
        (entry, number)
        for entry, want in enumerate(wanted)
        for number, (start, end) in enumerate(bounds)
        if want and start <= first + entry < end
    ]
    assert list(zip(place.tolist(), vma.tolist(), strict=True)) == expected

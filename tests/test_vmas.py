"""VMAs that can't be: what is left of overlapping ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from estimator.kernel.vmas import ends_before_next

vma = st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 40))  # mm, start, size


@given(st.lists(vma, max_size=15))
@example([(0, 0, 40), (0, 10, 5), (0, 20, 5)])  # one over two others
def test_what_is_left_does_not_overlap(vmas: list[tuple[int, int, int]]) -> None:
    vmas = sorted(vmas)
    mm, start, size = (np.array(part, np.int64) for part in np.array(vmas).reshape(-1, 3).T)
    end = start + size
    kept = ends_before_next(mm, start.astype(np.uint64), end.astype(np.uint64))
    left = [(m, s, s + n) for (m, s, n), keep in zip(vmas, kept.tolist(), strict=True) if keep]
    for (mm_a, _, end_a), (mm_b, start_b, _) in pairwise(left):
        assert mm_a != mm_b or end_a <= start_b
    lost = [(m, s, s + n) for (m, s, n), keep in zip(vmas, kept.tolist(), strict=True) if not keep]
    for m, s, e in lost:  # none without need
        assert sum(m == m2 and s2 < e and s < s2 + n2 for m2, s2, n2 in vmas) > 1

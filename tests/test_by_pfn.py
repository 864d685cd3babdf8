"""Values by PFN: whether frames lie together, apart, or anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.collect.by_pfn import ByPfn
from estimator.collect.mappings import Mapped, Rows, distinct_of, first_mappings, same_frames
from estimator.packed import Packed

SETS = [
    [7],
    [1000, 1001, 1003, 1004],
    list(range(5, 5 + 64 * 9, 3)),
    [63, 64, 127, 128, 700, 1 << 18],
    [3, 1 << 40, (1 << 52) - 1],
]


@pytest.mark.parametrize("numbers", SETS)
@settings(deadline=None)
@given(data=st.data())
def test_what_was_put_is_found(numbers: list[int], data: Any) -> None:
    pfns = np.array(numbers, np.uint64)
    values = ByPfn(Packed.of(pfns), np.uint32, 9)
    assert values.of(pfns).tolist() == [9] * len(pfns)
    put = data.draw(st.lists(st.tuples(st.sampled_from(numbers), st.integers(0, 99)), max_size=9))
    some = np.array([pfn for pfn, _ in put], np.uint64)
    values.put(some, np.array([value for _, value in put], np.uint32))
    expected = dict.fromkeys(numbers, 9) | dict(put)
    assert values.of(pfns[::-1]).tolist() == [expected[pfn] for pfn in numbers[::-1]]
    assert values.has(pfns).all()
    outside = np.array([numbers[0] - 1, numbers[-1] + 1], np.uint64)
    assert not values.has(outside).any()


def test_nothing_is_there_of_none() -> None:
    values = ByPfn(Packed(np.uint64), np.bool_, False)
    assert values.of(np.empty(0, np.uint64)).tolist() == []


@pytest.mark.parametrize("far", [0, 1 << 30, 1 << 50])
def test_each_frame_has_one_first_mapping(far: int) -> None:
    random = np.random.default_rng(far % 7)
    pfn = random.integers(0, 40, 300).astype(np.uint64) * np.uint64(3)
    pfn[pfn == 117] += np.uint64(far)
    mapped = Mapped({}, np.zeros(1, np.uint64))
    rows = Rows(np.zeros(300, np.uint32), np.arange(300, dtype="u8"), pfn, np.zeros(300, np.uint8))
    mapped.append(rows)
    pfns = distinct_of(mapped.pfn)
    assert pfns[:].tolist() == np.unique(pfn).tolist()
    found = {
        int(p): int(i)
        for r in first_mappings(pfns, mapped)
        for p, i in zip(r.pfn, r.page_index, strict=True)
    }
    assert found == {p: pfn.tolist().index(p) for p in set(pfn.tolist())}
    even = Packed.of(pfns[:][::2])
    some = [int(p) for r in first_mappings(even, mapped) for p in r.pfn if p in even[:]]
    assert sorted(some) == even[:].tolist()


@settings(deadline=None)
@given(st.data())
def test_the_same_frames_at_the_same_places(data: Any) -> None:
    entry = st.dictionaries(st.integers(0, 30), st.integers(0, 2), max_size=20)
    before, after = (dict(sorted(data.draw(entry).items())) for _ in range(2))

    def pieces(entries: dict[int, int], size: int) -> Any:
        rows = list(entries.items())
        for begin in range(0, len(rows), size):
            key, pfn = np.array(rows[begin : begin + size], np.uint64).T
            yield key, pfn

    sizes = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    masks = same_frames(pieces(before, sizes[0]), pieces(after, sizes[1]))
    found = [same for mask in masks for same in mask.tolist()]
    assert found == [before.get(key) == pfn for key, pfn in after.items()]

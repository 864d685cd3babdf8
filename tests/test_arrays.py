"""Work on pieces of long arrays."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator import arrays, ranks
from estimator.arrays import FirstOf, Met, in_turn, narrow, one_ahead
from estimator.ranks import Ranks


@given(st.lists(st.lists(st.integers(0, 30), max_size=50), max_size=4))
def test_where_numbers_occur_first(calls: list[list[int]]) -> None:
    first = FirstOf(31, lambda rows, dtype: np.full(rows, 77, dtype))
    for numbers in calls:
        assert first.row(np.array(numbers, np.int64)).tolist() == list(map(numbers.index, numbers))


@given(st.lists(st.lists(st.integers(0, 30), max_size=50), max_size=4))
def test_which_numbers_come_for_the_first_time(calls: list[list[int]]) -> None:
    met, before = Met(31, lambda rows, dtype: np.full(rows, 77, dtype)), list[int]()
    for numbers in calls:
        expected = [n not in before and n not in numbers[:at] for at, n in enumerate(numbers)]
        assert met.new(np.array(numbers, np.int64)).tolist() == expected
        before += numbers


@given(st.integers(0, 300), st.sets(st.integers(0, 299)))
def test_ranks(rows: int, chosen: set[int]) -> None:
    mask = np.isin(np.arange(rows), list(chosen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_ROWS_AT_ONCE", 64)
        found = Ranks.of(rows, lambda piece: mask[piece])
    every = np.arange(rows + 1, dtype=np.int32)
    assert found.before(every).tolist() == [0, *np.cumsum(mask).tolist()]
    assert found.holds(every[:-1]).tolist() == mask.tolist()
    assert found.total == np.count_nonzero(mask)


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_a_narrow_type_holds_all(numbers: list[int]) -> None:
    found = narrow(np.array(numbers, np.int32))
    assert found.tolist() == numbers


def test_a_few_small_numbers_take_a_byte_each() -> None:
    assert narrow(np.array([0, 255], np.int32)).dtype == np.uint8
    assert narrow(np.array([-1, 127], np.int32)).dtype == np.int8


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_done_side_by_side_comes_in_order(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "THREADS", threads)

    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return number

    assert list(in_turn(work, range(20))) == list(range(20))


@pytest.mark.parametrize("threads", [1, 3])
def test_only_a_few_items_are_taken_ahead(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "THREADS", threads)
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    found = in_turn(lambda number: number, items())
    for number in range(10):
        assert next(found) == number
        assert len(taken) <= number + 1 + threads


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_ends_it(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "THREADS", threads)

    def work(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    with pytest.raises(ValueError, match="five"):
        list(in_turn(work, range(20)))


def test_one_ahead_is_made_while_the_one_before_is_used() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    found = one_ahead(items())
    assert next(found) == 0
    until = time.monotonic() + 30
    while len(made) < 2 and time.monotonic() < until:
        time.sleep(0.001)
    assert len(made) == 2
    assert list(found) == [1, 2, 3]
    assert list(one_ahead(iter(()))) == []


def test_what_making_one_ahead_raises_comes_in_its_turn() -> None:
    found = one_ahead(1 // number for number in (1, 0))
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)

"""The smallest sets of lines, against brute force over all subsets."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.advice import smallest
from estimator.advice.smallest import Best, best_sets
from tests.test_frontier import PIECES, Frames, as_patterns, frame_lists, saved

costs = st.lists(st.sampled_from([0.0, 0.25, 1.5]), min_size=PIECES, max_size=PIECES)
worths = st.sampled_from([0.01, 1.0, 2.5])


def net(frames: Frames, cost: list[float], lines: set[int]) -> float:
    return saved(frames, lines) - sum(cost[line] for line in lines)


def admitted(frames: Frames, cost: list[float], worth: float) -> dict[int, float]:
    """By number of lines the most that a set saves in which each line is worth it."""
    best: dict[int, float] = {}
    for number in range(PIECES + 1):
        for chosen in map(set, itertools.combinations(range(PIECES), number)):
            whole = net(frames, cost, chosen)
            if all(whole - net(frames, cost, chosen - {line}) >= worth for line in chosen):
                best[number] = max(whole, best.get(number, -1e9))
    return best


def _before(best: dict[int, float], number: int) -> list[float]:
    return [most for n, most in best.items() if n < number]


def sets_of(frames: Frames, cost: list[float], worth: float) -> list[Best]:
    return best_sets(as_patterns(frames), np.array(cost), worth)


@given(frame_lists, costs, worths)
@settings(max_examples=100, deadline=None)
def test_no_other_set_of_so_many_lines_saves_more(
    frames: Frames, cost: list[float], worth: float
) -> None:
    """And none is left out that saves more than all with fewer lines."""
    rising: dict[int, float] = {}
    for number, most in sorted(admitted(frames, cost, worth).items()):
        if most > max(rising.values(), default=-1e9):
            rising[number] = most
    found = sets_of(frames, cost, worth)
    assert {len(one.lines): one.net_pages for one in found} == rising
    assert all(net(frames, cost, set(one.lines.tolist())) == one.net_pages for one in found)


@given(frame_lists, costs, worths)
@settings(max_examples=100, deadline=None)
def test_where_not_all_sets_are_tried_the_same_holds_but_for_best(
    frames: Frames, cost: list[float], worth: float
) -> None:
    """Every line is worth it, more lines save more, and none can be left out for nothing."""
    with mock.patch.object(smallest, "EXACT", 1):
        found = sets_of(frames, cost, worth)
    exact = sets_of(frames, cost, worth)
    assert found[-1].net_pages == exact[-1].net_pages
    sizes = [len(one.lines) for one in found]
    assert sizes == sorted(set(sizes))
    for one in found:
        lines = set(one.lines.tolist())
        assert net(frames, cost, lines) == one.net_pages
        for line in lines:
            assert one.net_pages - net(frames, cost, lines - {line}) >= worth


def test_lines_that_need_each_other_come_together() -> None:
    """0 and 1 hold the same 100 pages; 2 repeats 60 of its own."""
    frames: Frames = [(c, frozenset({p}), False) for c in range(100) for p in (0, 1)]
    frames += [(1000, frozenset({2}), False)] * 61
    found = sets_of(frames, [0.0] * PIECES, 1.0)
    assert [(one.lines.tolist(), one.net_pages) for one in found] == [
        ([], 0.0),
        ([2], 60.0),
        ([0, 1], 100.0),
        ([0, 1, 2], 160.0),
    ]


def test_what_is_on_saves_without_a_line() -> None:
    frames: Frames = [(1, frozenset(), False)] * 5 + [(2, frozenset({0}), False)] * 3
    found = sets_of(frames, [0.0] * PIECES, 1.0)
    assert [(one.lines.tolist(), one.net_pages) for one in found] == [([], 4.0), ([0], 6.0)]

"""The frontier against brute force over all subsets of small systems."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.advice.frontier import Patterns, Peeling, frontier, smallest_share

Frames = list[tuple[int, frozenset[int], bool]]
PIECES = 4

frame_lists = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.frozensets(st.integers(0, PIECES - 1), min_size=1, max_size=3),
        st.just(False),
    ),
    max_size=25,
)


def saved(frames: Frames, opted_in: set[int]) -> int:
    """What the definition says: per content, all frames wholly inside but one become free."""
    inside: dict[int, int] = defaultdict(int)
    free = 0
    for content, members, needs_no_partner in frames:
        if members <= opted_in:
            if needs_no_partner:
                free += 1
            else:
                inside[content] += 1
    return free + sum(max(n - 1, 0) for n in inside.values())


def as_patterns(frames: Frames) -> Patterns:
    """One pattern per content, one group per frame: no aggregation."""
    rows = [(g, p) for g, (_, members, _) in enumerate(frames) for p in sorted(members)]
    contents = sorted({content for content, _, _ in frames})
    return Patterns(
        pattern=np.array([contents.index(c) for c, _, _ in frames], np.int64),
        frames=np.ones(len(frames), np.int64),
        row_group=np.array([g for g, _ in rows], np.int64),
        row_piece=np.array([p for _, p in rows], np.int64),
        contents=np.ones(len(contents), np.int64),
        free=np.zeros(len(contents), np.bool_),
    )


@given(frame_lists, st.permutations(range(PIECES)))
@settings(max_examples=200, deadline=None)
def test_peeling_knows_the_exact_loss_at_every_step(frames: Frames, order: list[int]) -> None:
    peeling = Peeling(as_patterns(frames), PIECES)
    opted_in = set(range(PIECES))
    for leaving in order:
        assert peeling.saved_pages == saved(frames, opted_in)
        for piece in opted_in:
            expected = saved(frames, opted_in) - saved(frames, opted_in - {piece})
            assert peeling.loss_pages[piece] == expected
        peeling.remove(leaving)
        opted_in.remove(leaving)
    assert peeling.saved_pages == 0


@given(frame_lists, st.lists(st.integers(1, 50), min_size=PIECES, max_size=PIECES))
@settings(max_examples=200, deadline=None)
def test_the_frontier_is_reachable_and_ends_with_everything(
    frames: Frames, scanned: list[int]
) -> None:
    steps = frontier(as_patterns(frames), np.array(scanned, np.int64))
    for k, step in enumerate(steps.itertuples(), start=1):
        chosen = set(steps["piece"].iloc[:k])
        assert step.saved_pages == saved(frames, chosen)
        assert step.scanned_pages == sum(scanned[p] for p in chosen)
    assert steps["saved_pages"].iloc[-1] == saved(frames, set(range(PIECES)))


def test_services_that_need_each_other_are_taken_together() -> None:
    """A and B hold the same 100 pages; C repeats 10 pages of its own; D is unique."""
    frames: Frames = [(c, frozenset({p}), False) for c in range(100) for p in (0, 1)]
    frames += [(1000, frozenset({2}), False)] * 10
    steps = frontier(as_patterns(frames), np.array([100, 100, 100, 100]))
    assert set(steps["piece"].iloc[:2]) == {0, 1}
    assert steps["gain_pages"].tolist() == [0, 100, 9, 0]
    assert set(smallest_share(steps, 0.9)) == {0, 1}
    assert set(smallest_share(steps, 1.0)) == {0, 1, 2}


@given(frame_lists, st.lists(st.integers(1, 50), min_size=PIECES, max_size=PIECES))
@settings(max_examples=100, deadline=None)
def test_the_smallest_set_reaches_the_share_and_holds_nothing_needless(
    frames: Frames, scanned: list[int]
) -> None:
    steps = frontier(as_patterns(frames), np.array(scanned, np.int64))
    chosen = set(smallest_share(steps, 0.9).tolist())
    assert saved(frames, chosen) >= 0.9 * saved(frames, set(range(PIECES)))
    assert all(saved(frames, chosen - {p}) < saved(frames, chosen) for p in chosen)

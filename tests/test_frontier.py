"""The frontier against brute force over all subsets of small systems."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.advice.frontier import Peeling, frontier
from estimator.advice.patterns import Patterns, patterns
from estimator.advice.plan import restrict
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, small
from tests.test_accounting import worn

ENABLED = Policy(scope="enabled")
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
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=40, deadline=None)
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


def points(snapshot: Snapshot) -> list[tuple[int, int]]:
    """Every point of the frontier, processes as pieces: saved_pages, and what the model frees."""
    prediction = predict(snapshot, ENABLED)
    processes = len(snapshot.processes)
    steps, piece_of_vma = steps_of(snapshot, prediction)
    freed = []
    for k in range(1, processes + 1):
        chosen = np.isin(piece_of_vma, steps["piece"].iloc[:k])
        part = predict(restrict(snapshot, chosen), ENABLED) if k < processes else prediction
        freed.append(part.physical["frames_freed"])
    return list(zip(steps["saved_pages"].tolist(), freed, strict=True))


def steps_of(
    snapshot: Snapshot, prediction: Prediction
) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """The frontier, processes as pieces; and the piece of each VMA."""
    piece_of_vma = snapshot.vmas["mm_id"].to_numpy().astype(np.int64)
    found = patterns(snapshot, prediction, piece_of_vma)
    return frontier(found, np.ones(len(snapshot.processes), np.int64)), piece_of_vma


@given(worn(), st.sampled_from([None, 2, 300]))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_frontier_ends_with_what_the_model_frees(snapshot: Snapshot, limit: int | None) -> None:
    """Whatever is split, copied, kept by others, changing or unmerged before (another limit)."""
    prediction = predict(snapshot, Policy(scope="enabled", max_page_sharing=limit))
    steps, _ = steps_of(snapshot, prediction)
    assert steps["saved_pages"].iloc[-1] == prediction.physical["frames_freed"]


@st.composite
def plain_systems(draw: st.DrawFn, *, shared: bool) -> Snapshot:
    """No pins, no huge pages, no limit; frames of several processes and outside if ``shared``."""
    system = System("6.12", use_zero_pages=draw(st.booleans()))
    common = small(*draw(st.lists(st.integers(0, 3), max_size=6 if shared else 0)))
    for frame in common:
        frame.outside = draw(st.integers(0, 1))
    for _ in range(draw(st.integers(1, 5))):
        own = small(*draw(st.lists(st.integers(0, 3), max_size=4)))
        twice = draw(st.lists(st.sampled_from(own), max_size=2)) if own else []
        some = draw(st.lists(st.sampled_from(common), max_size=4)) if common else []
        system.process(*draw(st.permutations([*own, *twice, *some])))
    if shared and draw(st.booleans()):
        merged = Frame(draw(st.integers(0, 3)), outside=draw(st.integers(0, 1)))
        system.stable_node(merged)
        for process in draw(st.lists(st.sampled_from(system.processes), min_size=1, max_size=4)):
            process.map([merged], MappingFlag.MERGED)
    return system.snapshot()


@given(plain_systems(shared=False))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_point_is_what_the_model_frees(snapshot: Snapshot) -> None:
    assert all(saved == freed for saved, freed in points(snapshot))


@given(plain_systems(shared=True))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_point_promises_more_where_frames_are_shared(snapshot: Snapshot) -> None:
    """Of the first two frames of a content ksmd keeps the second (``closed_forms``).

    Which one that is depends on who is in. If others map it too, it stays anyway and one frame more
    becomes free than the frontier says, which knows that of all pieces together only.
    """
    assert all(saved <= freed for saved, freed in points(snapshot))


def test_what_somebody_else_keeps_takes_no_frame_from_the_saving() -> None:
    """ksmd keeps the second frame, which a process maps that does not take part."""
    kept = Frame(7)
    system = System()
    for frame in (Frame(7), kept, Frame(7)):
        system.process(frame)
    system.process(kept, mergeable=False)
    assert points(system.snapshot())[:3] == [(0, 0), (1, 1), (2, 2)]


def test_several_stable_nodes_keep_a_frame_each() -> None:
    system = System(max_page_sharing=2)
    system.processes_with(*[small(7) for _ in range(6)])
    assert points(system.snapshot())[-1] == (3, 3)


def test_a_copy_of_a_frame_that_others_keep_costs_one() -> None:
    """The first page is pinned: ksmd prepares the second for merging and has to copy it."""
    shared = Frame(7)
    system = System()
    for frame in (Frame(7, pins=1), shared, shared):
        system.process(frame)
    assert points(system.snapshot())[-1] == (-1, -1)

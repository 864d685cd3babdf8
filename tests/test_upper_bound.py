"""What could be freed where contents are left out: never less than what ksmd would free."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.errors import CannotAnswerError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.upper_bound import UpperBound, upper_bound
from estimator.report.bound_sections import headline
from estimator.snapshot.flags import FrameFlag, MappingFlag, Unknown
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, folio, small
from tests.test_accounting import worn

ENABLED = Policy(scope="enabled")


def without_contents(snapshot: Snapshot) -> Snapshot:
    """``snapshot`` as --without-contents would have collected it."""
    frames = snapshot.frames
    reason = frames["unknown"].to_numpy()
    nothing = pd.array([None] * len(frames), dtype="UInt64")
    frames = frames.assign(
        unknown=np.where(reason == Unknown.HASHED, Unknown.NOT_READ, reason).astype(np.uint8),
        hash=nothing,
        flags=frames["flags"].to_numpy() & ~np.uint32(FrameFlag.ZERO),
    )
    return replace(snapshot, frames=frames, info=snapshot.info | {"without_contents": True})


def bound_of(system: System, policy: Policy = ENABLED) -> UpperBound:
    return upper_bound(without_contents(system.snapshot()), policy)


def freed_at_most(system: System, policy: Policy = ENABLED) -> int:
    """The bound, after a look that the prediction keeps to it."""
    snapshot = system.snapshot()
    bound = upper_bound(without_contents(snapshot), policy).ledger.frames_freed
    assert predict(snapshot, policy).physical["frames_freed"] <= bound
    return bound


@given(worn(), st.sampled_from([None, 2, 300]), st.sampled_from(["enabled", "all"]))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_prediction_is_above_the_bound(
    snapshot: Snapshot, limit: int | None, scope: str
) -> None:
    policy = Policy(scope="all" if scope == "all" else "enabled", max_page_sharing=limit)
    prediction = predict(snapshot, policy)
    bound = upper_bound(without_contents(snapshot), policy)
    assert prediction.physical["frames_freed"] <= bound.ledger.frames_freed
    assert prediction.counters["pages_sharing"] <= bound.coverage.pages_sharing_at_most
    assert prediction.counters["ksm_rmap_items"] <= bound.coverage.candidate_pages
    assert prediction.physical["frames_before"] == bound.frames_before
    assert prediction.coverage.candidate_pages == bound.coverage.candidate_pages
    assert bound.coverage.hashed_pages == 0
    assert bound.processes["candidate_pages"].sum() == bound.coverage.candidate_pages
    assert bound.vmas["candidate_pages"].sum() == bound.coverage.candidate_pages


def test_every_frame_but_one_can_go() -> None:
    system = System()
    system.processes_with(small(7), small(7), small(7))
    assert (
        freed_at_most(system) == 2 == predict(system.snapshot(), ENABLED).physical["frames_freed"]
    )
    ledger = bound_of(system).ledger
    assert (ledger.candidate_pages, ledger.merged_frames) == (3, 1)


def test_a_node_holds_no_more_than_max_page_sharing() -> None:
    system = System(max_page_sharing=4)
    for _ in range(10):
        system.process(*small(7))
    snapshot = system.snapshot()
    assert predict(snapshot, ENABLED).physical["frames_freed"] == 7 == freed_at_most(system)
    assert bound_of(system).ledger.merged_frames == 3


def test_what_fork_shares_is_one_frame() -> None:
    system = System()
    owner = system.process(*small(1, 2))
    system.fork(owner, 9)
    bound = bound_of(system)
    assert bound.coverage.candidate_pages == 20
    assert bound.ledger.further_pages == 18
    assert freed_at_most(system) == 1
    assert bound.processes["fork_shared_pages"].tolist() == [2] * 10


def test_pinned_frames_and_frames_of_others_stay() -> None:
    system = System()
    pinned = small(1, 1, pins=1, flags=FrameFlag.LRU | FrameFlag.ANON_EXCLUSIVE)
    system.process(*small(1, 1), *pinned, *small(1, outside=1))
    ledger = bound_of(system).ledger
    assert (ledger.pinned_frames, ledger.kept_frames) == (2, 1)
    assert ledger.merged_frames == 0  # the frame of others can hold what merges
    assert freed_at_most(system) == 2


def test_zero_pages_need_no_frame() -> None:
    system = System(use_zero_pages=1)
    system.process(*small(0, 0))
    assert (
        freed_at_most(system) == 2 == predict(system.snapshot(), ENABLED).physical["frames_freed"]
    )


@pytest.mark.parametrize(("kernel", "pieces_back", "most"), [("6.1", 3, 7), ("6.12", 4, 8)])
def test_a_split_gives_back_pieces(kernel: str, pieces_back: int, most: int) -> None:
    """Of a huge page of 8, 4 pieces are scanned, one is mapped besides, 3 nobody maps.

    Since 6.12 a split takes zero-filled pieces from whoever maps them.
    """
    pieces = folio([0, 0, 0, 0, 0, 5, 6, 7])
    system = System(kernel)
    process = system.process(*pieces[:4], *small(9))
    process.map(pieces[4:5], mergeable=False)
    assert bound_of(system).ledger.split_frames == pieces_back
    assert freed_at_most(system) == most


def test_merged_frames_are_there_already() -> None:
    system = System()
    merged = Frame(1)
    system.stable_node(merged)
    for _ in range(2):
        system.process(merged, flags=MappingFlag.MERGED)
    system.process(*small(1, 2))
    ledger = bound_of(system).ledger
    assert (ledger.ksm_frames, ledger.further_pages, ledger.merged_frames) == (1, 1, 0)
    assert freed_at_most(system) == 2


def test_what_was_not_found_could_go_as_well() -> None:
    system = System()
    system.process(*small(1, 2), unknown_pages=10)
    assert freed_at_most(system) == 12  # one of the ten may hold what merges
    assert "could be freed" in " ".join(bound_of(system).warnings)
    told = headline(system.snapshot(), bound_of(system))
    memory = "8.0 KiB of anonymous memory that was found, and 40.0 KiB that was not."
    assert told.endswith(f"no more than 48.0 KiB of {memory}")


def test_who_opted_in() -> None:
    system = System()
    system.process(*small(1, 2), mergeable=True, comm="in", cgroup="/a", swap_pages=5)
    system.process(*small(3), mergeable=False, comm="out", cgroup="/b")
    system.process(*small(4), mergeable=False, excluded_by="VM_SHARED", comm="shut", cgroup="/b")
    bound = bound_of(system, Policy())
    rows = bound.processes.set_index("comm")
    assert rows["opted_in"].to_dict() == {"in": True, "out": False, "shut": False}
    assert rows["candidate_pages"].to_dict() == {"in": 2, "out": 1, "shut": 0}
    assert rows["swap_pages"].to_dict() == {"in": 5, "out": 0, "shut": 0}
    assert bound.cgroups["candidate_pages"].tolist() == [2, 1]
    assert bound.excluded["excluded_by"].tolist() == ["VM_SHARED"]
    assert bound.coverage.swap_pages == 5
    assert bound_of(system, Policy(comms=("out",))).processes["comm"].tolist() == ["out"]
    assert "frames_freed, at most" in bound._repr_html_()


def test_nothing_is_predicted_without_contents() -> None:
    system = System()
    system.process(*small(7))
    snapshot = without_contents(system.snapshot())
    with pytest.raises(CannotAnswerError, match=r"--without-contents.*upper bound"):
        predict(snapshot, ENABLED)
    with pytest.raises(CannotAnswerError):
        predict(snapshot, Policy(scope="enabled", comms=("worker",)))


def test_no_one_to_scan() -> None:
    system = System()
    system.process(*small(7), mergeable=False)
    bound = bound_of(system)
    assert bound.ledger.frames_freed == 0
    assert bound.coverage.hashed_share is None

"""From all anonymous frames to those that become free: every frame once, for the right reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.advice.why import why
from estimator.errors import UsageError
from estimator.ksm import losses as reasons
from estimator.ksm.candidates import NOT_MERGEABLE
from estimator.ksm.policy import Policy
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot, mapping_mm
from tests.synthetic import System, small
from tests.systems import Area, Process, system
from tests.test_accounting import worn


@given(worn(), st.sampled_from([None, 2, 300]), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_frame_is_counted_once(
    snapshot: Snapshot, limit: int | None, use_zero_pages: bool
) -> None:
    policy = Policy(scope="enabled", max_page_sharing=limit, use_zero_pages=use_zero_pages)
    found = why(snapshot, policy)
    lost = found.losses
    assert lost.freed == found.prediction.physical["frames_freed"]
    assert lost.anonymous - lost.not_known - lost.single - lost.kept == lost.equal
    assert min(lost.not_known, lost.single, lost.kept, lost.equal) >= 0
    assert (lost.lost["frames"] > 0).all()
    assert lost.lost["reason"].is_unique


@given(worn(), st.booleans())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_parts_of_all_processes_are_the_whole(snapshot: Snapshot, zero_pages: bool) -> None:
    """Whoever a page is shared with: nobody gets more of it for coming first."""
    policy = Policy(scope="enabled", use_zero_pages=zero_pages)
    whole = why(snapshot, policy)
    pids = snapshot.processes["pid"].tolist()
    parts = [why(snapshot, policy, whom=Policy(pids=(pid,))).losses for pid in pids]
    for part, pid in zip(parts, pids, strict=True):
        row = snapshot.processes["pid"] == pid
        rows = row.to_numpy()[mapping_mm(snapshot)]
        credited = whole.prediction.credits.of_row[np.flatnonzero(rows)].sum()
        assert part.freed == pytest.approx(credited)
    assert sum(part.freed for part in parts) == pytest.approx(whole.losses.freed)


def lost(snapshot: Snapshot, policy: Policy) -> dict[str, int]:
    table = why(snapshot, policy).losses.lost
    return dict(zip(table["reason"], table["frames"], strict=True))


def test_who_did_not_opt_in() -> None:
    snapshot = system(
        [
            Process("a", [Area([7, 7, 7], mergeable=True)]),
            Process("b", [Area([7, 8], excluded_by="VM_HUGETLB"), Area([7])]),
        ]
    )
    assert lost(snapshot, Policy(scope="enabled")) == {NOT_MERGEABLE: 2}
    assert lost(snapshot, Policy()) == {"VM_HUGETLB": 1}
    assert lost(snapshot, Policy(comms=("a",))) == {reasons.NOT_CHOSEN: 2}


def test_zero_pages_and_max_page_sharing() -> None:
    snapshot = system([Process("a", [Area([0, 0, 0, 5, 5, 5, 5, 6])])])
    assert lost(snapshot, Policy()) == {reasons.ZERO: 1}
    assert lost(snapshot, Policy(use_zero_pages=True)) == {}
    assert lost(snapshot, Policy(use_zero_pages=True, max_page_sharing=2)) == {reasons.KSM_PAGE: 1}


def test_what_is_pinned() -> None:
    made = System("6.12")
    owner = made.process(*small(5, 5))
    owner.map(small(5, pins=1, flags=FrameFlag.LRU | FrameFlag.ANON_EXCLUSIVE))
    assert lost(made.snapshot(), Policy()) == {reasons.PINNED: 1}


def test_a_page_that_fork_shares_with_who_stays_out() -> None:
    snapshot = system(
        [
            Process("in", [Area([5, 5], frames=["x", "y"])]),
            Process("out", [Area([5], frames=["x"], excluded_by="VM_IO")]),
        ]
    )
    assert lost(snapshot, Policy()) == {reasons.ELSEWHERE: 1}


def test_of_whom_and_where() -> None:
    snapshot = system(
        [
            Process("a", [Area([1, 2, 3]), Area([3], name="[stack]")], pid=10),
            Process("b", [Area([1, 2, 4])], pid=11),
        ]
    )
    whole = why(snapshot).losses
    assert (whole.anonymous, whole.single, whole.kept, whole.freed) == (7, 1, 3, 3)
    one, other = (why(snapshot, whom=Policy(pids=(pid,))).losses for pid in (10, 11))
    assert (one.anonymous, other.anonymous, other.single) == (4, 3, 1)
    assert (one.freed, other.freed, one.kept, other.kept) == (2.0, 1.0, 2.0, 1.0)
    stack = snapshot.vmas[snapshot.vmas["name"] == "[stack]"].iloc[0]
    there = why(snapshot, whom=Policy(pids=(10,)), vma=int(stack["start"])).losses
    assert there.anonymous == 1
    with pytest.raises(UsageError, match="no VMA of these processes has the address 0x10"):
        why(snapshot, whom=Policy(pids=(10,)), vma=16)


def test_what_fork_shares_counts_in_parts() -> None:
    frames = ["x", "y"]
    snapshot = system(
        [
            Process("a", [Area([1, 2], frames=frames)], pid=10),
            Process("a", [Area([1, 2], frames=frames)], pid=11),
            Process("b", [Area([1])], pid=12),
        ]
    )
    one, _, other = (why(snapshot, whom=Policy(pids=(pid,))).losses for pid in (10, 11, 12))
    assert (one.anonymous, one.single, other.anonymous) == (1.0, 0.5, 1.0)
    assert (one.freed, other.freed) == (0.25, 0.5)

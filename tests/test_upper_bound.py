"""What could be freed where contents are left out: never less than what ksmd would free."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.upper_bound import UpperBound, upper_bound
from estimator.snapshot.flags import FrameFlag, Unknown
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System
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
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
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

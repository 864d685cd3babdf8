"""What goes content by content comes out the same in one part and in several."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from estimator.ksm import content_parts
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System
from tests.test_model_closed_forms import systems


def _answers(snapshot: Snapshot) -> list[pd.DataFrame]:
    found = predict(snapshot)
    tables = [found.pairs("process"), found.pairs("service"), found.contents(10)]
    return [table.round(9) for table in tables]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_pairs_and_contents_do_not_depend_on_the_parts(system: System) -> None:
    snapshot = system.snapshot()
    whole = _answers(snapshot)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_parts, "_ROWS_OF_A_PART", 2)
        parts = _answers(snapshot)
    for one, other in zip(whole, parts, strict=True):
        pd.testing.assert_frame_equal(one, other)

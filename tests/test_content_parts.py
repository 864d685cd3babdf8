"""What goes content by content comes out the same in one part and in several."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from estimator import arrays
from estimator.advice.copies import copies
from estimator.advice.page_sizes import page_sizes
from estimator.advice.preload import preload
from estimator.ksm import content_parts
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System
from tests.test_model_closed_forms import systems


def _answers(snapshot: Snapshot) -> list[pd.DataFrame]:
    family = np.arange(len(snapshot.processes)) // 3
    parents = pd.array(family + 100, dtype="Int32")
    snapshot = replace(snapshot, processes=snapshot.processes.assign(parent_pid=parents))
    found = predict(snapshot)
    loaded = preload(snapshot, found)
    tables = [
        found.pairs("process"),
        found.pairs("service"),
        found.contents(10),
        page_sizes(snapshot, found),
        loaded.groups,
        pd.DataFrame([[loaded.bytes_saved, loaded.merged_bytes]]),
        pd.DataFrame([asdict(copies(snapshot, found))]),
    ]
    return [table.round(9) for table in tables]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_what_is_worked_out_in_parts_does_not_depend_on_them(system: System) -> None:
    snapshot = system.snapshot()
    whole = _answers(snapshot)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_parts, "_ROWS_OF_A_PART", 2)
        patch.setattr(arrays, "_PIECE_ROWS", 3)
        parts = _answers(snapshot)
    for one, other in zip(whole, parts, strict=True):
        pd.testing.assert_frame_equal(one, other)

"""What goes content by content comes out the same in one part and in several."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from estimator import arrays
from estimator.advice.borders import borders
from estimator.advice.copies import copies
from estimator.advice.near import nearly_equal
from estimator.advice.page_sizes import page_sizes
from estimator.advice.preload import preload
from estimator.advice.reasons import reasons
from estimator.advice.verdict import savings
from estimator.ksm import content_parts
from estimator.ksm.predict import predict
from estimator.snapshot import stored_table
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System
from tests.test_model_closed_forms import systems


def _answers(snapshot: Snapshot) -> list[pd.DataFrame]:
    family = np.arange(len(snapshot.processes)) // 3
    parents = pd.array(family + 100, dtype="Int32")
    hashes = snapshot.frames["hash"].astype("UInt64")
    near = {"near_hash": hashes % 3, "no_address_hash": hashes % 7}
    processes = snapshot.processes.assign(parent_pid=parents)
    snapshot = replace(snapshot, processes=processes, frames=snapshot.frames.assign(**near))
    found = predict(snapshot)
    alike = nearly_equal(snapshot, found)
    assert alike is not None
    why = reasons(snapshot, found, replace(savings(snapshot, found), net_bytes=0))
    loaded = preload(snapshot, found)
    tables = [
        found.pairs("process"),
        found.pairs("service"),
        found.contents(10),
        page_sizes(snapshot, found),
        loaded.groups,
        pd.DataFrame([[loaded.bytes_saved, loaded.merged_bytes]]),
        pd.DataFrame([asdict(copies(snapshot, found))]),
        alike.sort_values(["label", "comm"], ignore_index=True),
        pd.DataFrame([asdict(borders(snapshot, found, family))]),
        pd.DataFrame({"why": sorted(why)}),
    ]
    return [table.round(9) for table in tables]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_what_is_worked_out_in_parts_does_not_depend_on_them(system: System) -> None:
    snapshot = system.snapshot()
    whole = _answers(snapshot)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_parts, "_ROWS_OF_A_PART", 10)
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        patch.setattr(stored_table, "_ROWS_AT_ONCE", 5)
        parts = _answers(snapshot)
    for one, other in zip(whole, parts, strict=True):
        pd.testing.assert_frame_equal(one, other)

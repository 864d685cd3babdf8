"""A snapshot whose rows stay in its files gives the answers of one in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from estimator.errors import CannotAnswerError, TargetError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json
from estimator.snapshot import stored_table
from estimator.snapshot.format import FORMAT_VERSION
from estimator.snapshot.store import open_snapshot, write_snapshot
from estimator.snapshot.stored_table import StoredTable, in_pieces, rows_at
from tests.synthetic import System
from tests.systems import fork_server
from tests.test_model_closed_forms import systems


def _written(system: System, path: Path) -> Path:
    snapshot = system.snapshot()
    snapshot.info["format_version"] = FORMAT_VERSION
    ksm = snapshot.info["ksm"]
    snapshot.info["ksm"] = {n: int(v) if isinstance(v, bool) else v for n, v in ksm.items()}
    write_snapshot(snapshot, path, replace=True)
    return path


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_the_whole_answer_is_the_same(tmp_path: Path, system: System) -> None:
    path = _written(system, tmp_path / "random.ksm")
    for scope in ("all", "enabled"):
        held, stored = (
            predict(open_snapshot(path, stored=kind), Policy(scope=scope)) for kind in (False, True)
        )
        assert json.dumps(prediction_json(stored)) == json.dumps(prediction_json(held))
        np.testing.assert_array_equal(stored.outcome, held.outcome)
        np.testing.assert_array_equal(stored.stable_node, held.stable_node)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_snapshot(fork_server(), tmp_path / "workers.ksm")
    return tmp_path / "workers.ksm"


def test_columns_are_those_of_the_file_and_only_some_are_held(path: Path) -> None:
    held, stored = open_snapshot(path), open_snapshot(path, stored=True)
    tables: list[tuple[pd.DataFrame, Any]] = [
        (held.frames, stored.frames),
        (held.mappings, stored.mappings),
    ]
    for one, other in tables:
        assert isinstance(other, StoredTable)
        assert len(other) == len(one)
        for name in one.columns:
            pd.testing.assert_series_equal(other[name], one[name])
        pd.testing.assert_frame_equal(other.iloc[1:3], one.iloc[1:3])
    assert stored.mappings["frame_id"] is stored.mappings["frame_id"]
    assert stored.mappings["flags"] is not stored.mappings["flags"]


def test_what_is_read_is_what_was_opened(path: Path) -> None:
    stored = open_snapshot(path, stored=True)
    before = stored.frames["hash"].to_numpy()
    (path / "frames.parquet").unlink()
    np.testing.assert_array_equal(stored.frames["hash"].to_numpy(), before)


def test_a_null_in_any_column_is_refused_at_once(path: Path) -> None:
    table = pq.read_table(path / "frames.parquet")
    number = table.schema.get_field_index("refcount")
    nulls = pa.array([None] * len(table), pa.int32())
    pq.write_table(table.set_column(number, "refcount", nulls), path / "frames.parquet")
    with pytest.raises(TargetError, match="'refcount' has nulls"):
        open_snapshot(path, stored=True)


@pytest.mark.parametrize("stored", [True, False])
def test_a_few_rows_are_those_of_the_columns(
    path: Path, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = open_snapshot(path, stored=stored).frames
    monkeypatch.setattr(stored_table, "_ROWS_AT_ONCE", len(frames) // 3)
    rows = np.array([len(frames) - 1, 0, 1, 1, len(frames) // 2])
    pfn, flags = rows_at(frames, ("pfn", "flags"), rows)
    assert pfn.tolist() == frames["pfn"].to_numpy()[rows].tolist()
    assert flags.tolist() == frames["flags"].to_numpy()[rows].tolist()
    assert [len(none) for none in rows_at(frames, ("pfn",), rows[:0])] == [0]


@pytest.mark.parametrize("stored", [True, False])
def test_pieces_are_the_columns(path: Path, stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = open_snapshot(path, stored=stored).frames
    monkeypatch.setattr(stored_table, "_ROWS_AT_ONCE", len(frames) // 3)
    names = ["pfn", "hash", "flags"]
    found = list(in_pieces(frames, names))
    assert len(found) > 1
    assert [row for piece, _ in found for row in range(len(frames))[piece]] == [*range(len(frames))]
    together = pd.concat([some for _, some in found], ignore_index=True)
    pd.testing.assert_frame_equal(together, frames[names].reset_index(drop=True))


def test_a_flipped_bit_is_never_taken_for_what_was_written(path: Path) -> None:
    """Its pages have checksums, and its footer does not parse; what nobody reads may be flipped."""
    names = ("processes", "vmas", "mappings", "frames", "stable_nodes")
    before, refused = open_snapshot(path), 0
    for name in names:
        file = path / f"{name}.parquet"
        written = file.read_bytes()
        for place in range(4, len(written), len(written) // 60):
            file.write_bytes(
                written[:place] + bytes([written[place] ^ 1 << place % 8]) + written[place + 1 :]
            )
            try:
                after = open_snapshot(path)
            except (TargetError, CannotAnswerError) as error:
                refused += str(file) in str(error) or str(path) in str(error)
            else:
                for each in names:
                    pd.testing.assert_frame_equal(getattr(after, each), getattr(before, each))
        file.write_bytes(written)
    assert refused > 150


@pytest.mark.parametrize("name", ["frames.parquet", "snapshot.json"])
@pytest.mark.parametrize("what", ["pipe", "directory"])
def test_what_is_no_file_is_refused_at_once(path: Path, name: str, what: str) -> None:
    (path / name).unlink()
    (os.mkfifo if what == "pipe" else os.mkdir)(path / name)
    with pytest.raises(TargetError, match=f"{name} is no file"):
        open_snapshot(path)

"""Columns of a collection: written and asked as the same tables in DataFrames are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from estimator.arrays import Columns
from estimator.packed import Packed, packed
from estimator.snapshot import store
from estimator.snapshot.gathered import Gathered, objects
from estimator.snapshot.schema import SCHEMAS
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.systems import fork_server


def with_nulls() -> Snapshot:
    """A snapshot with what is hard to write: nulls of each type, lists, names of other scripts."""
    snapshot = fork_server()
    processes, frames = snapshot.processes, snapshot.frames
    size = len(processes)
    assert size >= 3
    processes["comm"] = ["größe", "", *["web"] * (size - 2)]
    processes["cmdline"] = [None, "été -x", *[""] * (size - 2)]
    processes["sharing_pids"] = [[7, 8, 9], [], *[[n] for n in range(size - 2)]]
    processes["merge_any"] = pd.array([None, True, *[False] * (size - 2)], "boolean")
    processes["scan_order"] = pd.array([0, None, *[-1] * (size - 2)], "Int32")
    lost = (np.arange(len(frames)) % 3 == 0) | frames["hash"].isna().to_numpy()
    frames["unknown"] = np.where(lost, 3, 0).astype(np.uint8)
    frames["hash"] = frames["hash"].mask(frames["unknown"] != 0)
    return snapshot


def column(values: Any, dtype: Any) -> npt.NDArray[Any]:
    if dtype == np.object_:
        null = [value is None or value is pd.NA or value is np.nan for value in values]
        return objects([None if gone else v for v, gone in zip(values, null, strict=True)])
    null = values.isna().to_numpy()
    known = [0 if gone else value for value, gone in zip(values, null, strict=True)]
    numbers = np.array(known, dtype)
    return np.ma.MaskedArray(numbers, null) if null.any() else numbers


def gathered(snapshot: Snapshot) -> Gathered:
    def columns(name: str) -> Columns:
        return {
            field.name: column(getattr(snapshot, name)[field.name], field.type.to_pandas_dtype())
            for field in SCHEMAS[name]
            if field.name != "items"
        }

    mappings, frames = (packed(columns(name)) for name in ("mappings", "frames"))
    processes, vmas, nodes = (columns(name) for name in ("processes", "vmas", "stable_nodes"))
    items = {str(name): values.to_numpy() for name, values in snapshot.stable_items.items()}
    return Gathered(snapshot.info, processes, vmas, mappings, frames, nodes, items)


def test_the_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte: a snapshot does not tell which way it was written, nor by how many threads."""
    monkeypatch.setattr(store, "ROW_GROUP_ROWS", 3)
    snapshot = with_nulls()
    write_snapshot(snapshot, tmp_path / "frames.ksm")
    write_snapshot(gathered(snapshot), tmp_path / "columns.ksm", two_cores=True)
    names = sorted(path.name for path in (tmp_path / "frames.ksm").iterdir())
    assert len(names) == len(SCHEMAS) + 1
    for name in names:
        one, two = (tmp_path / each / name for each in ("frames.ksm", "columns.ksm"))
        assert one.read_bytes() == two.read_bytes(), name


def test_asked_at_once_it_is_what_is_read_later(tmp_path: Path) -> None:
    found = gathered(with_nulls())
    write_snapshot(found, tmp_path / "a.ksm")
    now, later = found.snapshot(), open_snapshot(tmp_path / "a.ksm")
    assert now.info == later.info
    for name in (*SCHEMAS, "stable_items"):
        one, two = getattr(now, name), getattr(later, name)
        if name == "processes":
            one, two = (t.assign(sharing_pids=t["sharing_pids"].map(list)) for t in (one, two))
        pd.testing.assert_frame_equal(one, two)


def test_a_column_of_another_type_is_not_written(tmp_path: Path) -> None:
    found = gathered(fork_server())
    found.mappings["vma_id"] = Packed.of(found.mappings["vma_id"][:].astype(np.int64))
    with pytest.raises(TypeError, match="vma_id is int64, not uint32"):
        write_snapshot(found, tmp_path / "a.ksm")
    assert not list(tmp_path.iterdir())

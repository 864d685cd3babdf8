"""What is written is what is read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from estimator.errors import CannotAnswerError
from estimator.snapshot import read_tables, store
from estimator.snapshot.format import FORMAT_VERSION
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.synthetic import System, small
from tests.systems import fork_server


@pytest.mark.parametrize("contents", [[], [1, 2, 1], [1, None, 0, None], [None]])
def test_frames_without_a_hash_stay_without_one(contents: list[int | None], tmp_path: Path) -> None:
    system = System()
    system.process(*small(*contents, 7))
    snapshot = system.snapshot()
    snapshot.info["format_version"] = FORMAT_VERSION
    write_snapshot(snapshot, tmp_path / "a.ksm")
    found = open_snapshot(tmp_path / "a.ksm")
    assert found.info == snapshot.info
    assert found.frames["hash"].isna().sum() == contents.count(None)
    for name in ("mappings", "frames"):
        pd.testing.assert_frame_equal(
            getattr(found, name), getattr(snapshot, name), check_dtype=False, obj=name
        )


def test_tables_are_read_and_written_in_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, snapshot = tmp_path / "web.ksm", fork_server()
    monkeypatch.setattr(store, "ROW_GROUP_ROWS", 1000)
    write_snapshot(snapshot, path)
    groups = pq.ParquetFile(path / "mappings.parquet").metadata.num_row_groups
    assert groups == -(-len(snapshot.mappings) // 1000) > 1
    found = open_snapshot(path)
    for name in ("processes", "vmas", "mappings", "frames"):
        pd.testing.assert_frame_equal(
            getattr(found, name), getattr(snapshot, name), check_dtype=False, obj=name
        )


def test_columns_that_are_not_known_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "web.ksm"
    write_snapshot(fork_server(), path)
    frames = pq.read_table(path / "frames.parquet")
    pq.write_table(frames.append_column("unheard_of", frames["hash"]), path / "frames.parquet")
    pd.testing.assert_frame_equal(
        open_snapshot(path).frames, fork_server().frames, check_dtype=False
    )


def test_more_rows_than_there_are_numbers_for_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "web.ksm"
    write_snapshot(fork_server(), path)
    monkeypatch.setattr(read_tables, "MOST_ROWS", 5000)
    with pytest.raises(CannotAnswerError, match="this program takes less than 5,000"):
        open_snapshot(path)


def test_pages_far_into_a_vma_are_kept(tmp_path: Path) -> None:
    system = System()
    area = system.process().map(small(1, 2))
    area.pages[1 << 34] = area.pages.pop(1)
    snapshot = system.snapshot()
    snapshot.info["format_version"] = FORMAT_VERSION
    write_snapshot(snapshot, tmp_path / "a.ksm")
    found = open_snapshot(tmp_path / "a.ksm").mappings["page_index"]
    assert found.tolist() == [0, 1 << 34]


def test_a_scan_order_that_is_not_known_stays_so(tmp_path: Path) -> None:
    snapshot = fork_server()
    snapshot.processes.loc[5:, "scan_order"] = pd.NA
    write_snapshot(snapshot, tmp_path / "a.ksm")
    order = open_snapshot(tmp_path / "a.ksm").processes["scan_order"]
    assert order.isna().tolist() == [False] * 5 + [True] * (len(order) - 5)

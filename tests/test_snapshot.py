"""What is written is what is read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from estimator.snapshot.schema import FORMAT_VERSION
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.synthetic import System, small


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

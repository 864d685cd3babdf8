"""Snapshots of format 1 give the answers that the version gave which wrote them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest

from estimator import Policy, open_snapshot, predict
from estimator.cli import cli
from estimator.errors import CannotAnswerError
from estimator.snapshot.flags import FrameKind

WRITTEN = Path(__file__).parent / "data" / "format_1.ksm"
"""Written by 0.1.0: one stable node with four items, a large folio, an unknown frame."""

COUNTERS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "general_profit")


@pytest.mark.parametrize(
    ("scope", "answered", "unknown"),
    [("all", (4, 12, 3, 2, 47808), 1), ("enabled", (4, 9, 1, 2, 35840), 0)],
)
def test_a_snapshot_of_format_1_answers_as_it_did(
    scope: Literal["all", "enabled"], answered: tuple[int, ...], unknown: int
) -> None:
    found = predict(open_snapshot(WRITTEN), Policy(scope=scope))
    assert tuple(found.counters[name] for name in COUNTERS) == answered
    assert found.coverage.unknown_pages == unknown


def test_ksm_pages_of_format_1_are_a_kind() -> None:
    frames = open_snapshot(WRITTEN).frames
    assert (frames["kind"] == FrameKind.KSM).sum() == 1
    assert ((frames["flags"] & 2) == 0).all()
    assert set(frames["kind"]) == {FrameKind.KSM, FrameKind.ANONYMOUS}


def test_procfs_of_format_1_did_not_know_who_is_on_ksmds_list(tmp_path: Path) -> None:
    path = tmp_path / "format_1.ksm"
    shutil.copytree(WRITTEN, path)
    info = json.loads((path / "snapshot.json").read_text())
    info["source"]["kind"] = "procfs"
    (path / "snapshot.json").write_text(json.dumps(info))
    order = open_snapshot(path).processes["scan_order"]
    assert order[order.isna()].index.tolist() == [3, 4]
    found = predict(open_snapshot(path), Policy(scope="enabled"))
    assert found.counters["pages_sharing"] == 10  # process 3 has a mergeable VMA, so it is on it


def test_format_1_of_a_kernel_that_it_did_not_know_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "format_1.ksm"
    shutil.copytree(WRITTEN, path)
    info = json.loads((path / "snapshot.json").read_text())
    info["kernel"]["release"] = "7.3.4"
    (path / "snapshot.json").write_text(json.dumps(info))
    with pytest.raises(CannotAnswerError, match="break_cow_forgets"):
        predict(open_snapshot(path))


@pytest.mark.parametrize("command", [["advise"], ["report", "--html", "page.html"]])
def test_the_advice_says_at_once_that_format_1_has_no_settings(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("it worked out what it can't tell")

    monkeypatch.setattr("estimator.advice.plan.make_plan", worked)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotAnswerError, match="how ksmd is set"):
        cli([*command, str(WRITTEN)], standalone_mode=False)
    assert not any(tmp_path.iterdir())

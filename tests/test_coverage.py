"""One coverage: exit code, sentence, table, caveat and JSON of every command say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json
from estimator.report.prediction_sections import prediction_sections
from estimator.report.words import coverage_words, smart_scan_words
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.systems import Area, Process, system

READ_ALL = "Every page that ksmd would visit was read."


def with_gaps(missing: int = 0, lost: int = 0, mapped: int = 8) -> Snapshot:
    """``mapped`` pages that were read, with missing page tables and lost pages besides."""
    snapshot = system([Process("a", [Area([1] * mapped)])])
    snapshot.vmas.loc[0, "unknown_pages"] = missing
    snapshot.info["unknown"] = {"anonymous_pages": lost}
    return snapshot


@pytest.mark.parametrize(
    ("missing", "lost", "policy", "share"),
    [
        (0, 0, Policy(), 1.0),
        (40, 0, Policy(), 8 / 48),
        (0, 24, Policy(), 0.25),
        (8, 16, Policy(), 0.25),
        (0, 24, Policy(scope="enabled"), 0.0),  # no VMA that was found takes part
    ],
)
def test_missing_page_tables_and_lost_pages_count(
    missing: int, lost: int, policy: Policy, share: float
) -> None:
    snapshot = with_gaps(missing, lost)
    prediction = predict(snapshot, policy)
    coverage = prediction.coverage
    assert coverage.hashed_share == share
    assert (coverage.page_table_missing_pages, coverage.lost_pages) == (missing, lost)
    assert (coverage_words(coverage, 4096) == READ_ALL) == (share == 1)
    assert coverage.pages_sharing_at_most >= missing + lost
    assert coverage.could_add_frames == missing + lost
    tables = {section.title: section for section in prediction_sections(snapshot, prediction)}
    rows = tables["Coverage"].rows
    assert rows is not None
    assert rows["pages"].sum() == coverage.pages
    assert any("missing or kept changing" in text for text in prediction.warnings) == (missing > 0)


def test_lost_pages_may_be_of_anybody() -> None:
    """Who owns them is not known, so a selection of processes says nothing of them."""
    snapshot = system([Process("a", [Area([1] * 8)]), Process("b", [Area([2])])])
    snapshot.info["unknown"] = {"anonymous_pages": 24}
    assert predict(snapshot, Policy()).coverage.lost_pages == 24
    assert predict(snapshot, Policy(comms=("a",))).coverage.lost_pages == 0


def test_coverage_of_nothing_is_no_share() -> None:
    snapshot = with_gaps(mapped=0)
    prediction = predict(snapshot, Policy())
    assert prediction.coverage.hashed_share is None
    assert prediction_json(prediction)["coverage"]["hashed_share"] is None
    assert coverage_words(prediction.coverage, 4096) == "There is no page to read."


def test_a_saving_that_could_not_be_read_is_not_called_none() -> None:
    snapshot = with_gaps(missing=40, mapped=0)
    title = prediction_sections(snapshot, predict(snapshot, Policy()))[0].title
    assert "not known" in title
    assert "nothing to scan" not in title


def test_where_nobody_takes_part_pages_of_nobody_are_named() -> None:
    snapshot = with_gaps(lost=24)
    prediction = predict(snapshot, Policy(scope="enabled"))
    verdict = prediction_sections(snapshot, prediction)[0]
    title = verdict.title
    assert "nothing to scan: none of the 32.0 KiB of anonymous memory that was found" in title
    assert "24 more pages were found in no process" in title
    assert verdict.note == "They count as nothing saved and could add 96.0 KiB at the very most."
    assert not any("keep changing" in warning for warning in prediction.warnings)
    assert smart_scan_words(prediction) == ""
    assert any("keep changing" in warning for warning in predict(snapshot, Policy()).warnings)


@pytest.mark.parametrize("command", ["predict", "report", "advise", "report --html"])
def test_every_command_exits_with_6_and_still_answers(command: str, tmp_path: Path) -> None:
    path = tmp_path / "gaps.ksm"
    write_snapshot(with_gaps(missing=40), path)
    name, *html = command.split()
    more = [*html, tmp_path / "page.html"] if html else []
    done = estimator(name, path, *more)
    assert done.returncode == 6
    assert "only 17% of the candidate pages could be read" in done.stderr
    assert READ_ALL not in done.stdout
    assert done.stdout or (tmp_path / "page.html").is_file()
    more = [*html, tmp_path / "again.html"] if html else []
    assert estimator(name, path, *more, "--min-coverage", "16").returncode == 0


@pytest.mark.parametrize("command", ["predict", "advise"])
def test_coverage_in_json(command: str, tmp_path: Path) -> None:
    path = tmp_path / "gaps.ksm"
    write_snapshot(with_gaps(missing=40), path)
    done = estimator(command, path, "--json")
    assert done.returncode == 6
    coverage = json.loads(done.stdout)["coverage"]
    assert coverage["hashed_share"] == 8 / 48
    assert coverage["page_table_missing_pages"] == 40

"""One host over time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator.errors import CannotAnswerError, UsageError
from estimator.fleet.one_host import Question
from estimator.fleet.trend import Trend, trend
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.schemas import check
from tests.systems import Area, Process, system

QUESTION = Question(Policy(), "unit", 150.0)


def look(place: Path, minute: int, shared: list[int], seed_id: str = "s", **info: Any) -> Path:
    """A host whose services web and api have ``shared`` in common."""
    made = system(
        [
            Process("web", [Area([*shared, 9001])], cgroup="/system.slice/web.service"),
            Process("api", [Area([*shared, 9002])], cgroup="/system.slice/api.service"),
            Process("job", [Area([8000] * 5)], cgroup="/system.slice/job.service"),
        ]
    )
    about = {
        "host": "web1",
        "machine_id": "id",
        "collected_at": f"2026-01-01T00:{minute:02}:00+00:00",
        "hash": {"name": "test", "seed": 1, "seed_id": seed_id},
    }
    write_snapshot(replace(made, info=made.info | about | info), place)
    return place


def found(tmp_path: Path, **info: Any) -> Trend:
    b = look(tmp_path / "b.ksm", 10, list(range(50, 250)), **info)
    a = look(tmp_path / "a.ksm", 0, list(range(100)))
    return trend([b, a], QUESTION)


def test_the_saving_in_the_order_of_time(tmp_path: Path) -> None:
    answer = found(tmp_path)
    assert [Path(place).name for place in answer.looks["place"]] == ["a.ksm", "b.ksm"]
    assert answer.looks["saved_bytes"].tolist() == [104 * 4096, 204 * 4096]
    assert answer.looks["read_share"].tolist() == [1, 1]
    assert set(answer.changes["service"][:2]) == {"web.service", "api.service"}
    assert answer.changes["change_bytes"].iloc[0] == pytest.approx(50 * 4096, rel=0.1)
    assert answer.overcommit["needed_bytes"].iloc[-1] == 204 * 4096
    assert answer.volatility == pytest.approx(1 / 3, rel=0.05)


def test_how_fast_merged_contents_go(tmp_path: Path) -> None:
    answer = found(tmp_path)
    last = answer.looks.iloc[1]
    assert last["merged_contents"] == 101
    assert last["gone_share"] == pytest.approx(50 / 101)
    assert (1 - last["gone_per_minute"]) ** 10 == pytest.approx(1 - 50 / 101)
    assert answer.gone_per_minute == last["gone_per_minute"]


def test_two_seeds_leave_the_saving_and_no_more(tmp_path: Path) -> None:
    answer = found(tmp_path, hash={"name": "test", "seed": 2, "seed_id": "t"})
    assert answer.gone_per_minute is None
    assert answer.looks["gone_share"].isna().all()
    assert answer.looks["saved_bytes"].tolist() == [104 * 4096, 204 * 4096]


def test_one_service(tmp_path: Path) -> None:
    found(tmp_path)
    paths = [tmp_path / "a.ksm", tmp_path / "b.ksm"]
    job = trend(paths, QUESTION, "job.service")
    assert job.looks["saved_bytes"].tolist() == [4 * 4096] * 2
    assert job.volatility == pytest.approx(0, abs=0.01)
    with pytest.raises(UsageError, match="no snapshot has a service mail"):
        trend(paths, QUESTION, "mail.service")


def test_what_is_no_trend(tmp_path: Path) -> None:
    a = look(tmp_path / "a.ksm", 0, [1])
    for name, info, message in (
        ("c", {"host": "db1", "machine_id": "other"}, "are of two hosts: web1 and db1"),
        ("d", {}, "at the same moment"),
    ):
        other = look(tmp_path / f"{name}.ksm", 0, [1], **info)
        with pytest.raises(UsageError, match=message):
            trend([a, other], QUESTION)
    with pytest.raises(UsageError, match="at least two"):
        trend([a], QUESTION)
    undated = look(tmp_path / "e.ksm", 0, [1], collected_at=None)
    with pytest.raises(CannotAnswerError, match="when it was taken"):
        trend([a, undated], QUESTION)


def test_the_command(tmp_path: Path) -> None:
    found(tmp_path)
    paths = [tmp_path / "a.ksm", tmp_path / "b.ksm"]
    told = estimator("fleet", "trend", *paths)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("In 2 looks at web1 over 10 min the net saving went from")
    answer = json.loads(estimator("fleet", "trend", *paths, "--json").stdout)
    check("trend", answer)
    assert answer["looks"][0]["gone_share"] is None
    assert answer["looks"][1]["saved_bytes"] == 204 * 4096
    assert [look["net_bytes"] for look in answer["looks"]] == [predict_net(path) for path in paths]


def predict_net(path: Path) -> int:
    from estimator.snapshot.store import open_snapshot

    return predict(open_snapshot(path)).physical["net_bytes_saved"]

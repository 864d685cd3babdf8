"""The command ``forecast``: its table, its JSON, its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator.advice.pace import pace
from estimator.advice.page_cost import PageCost
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.report.forecast_sections import forecast_json
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.synthetic import System, folio, small
from tests.systems import fork_server, system

COUNTERS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forecast") / "server.ksm"
    write_snapshot(fork_server(), path)
    return path


def scans(path: Path, *options: object) -> list[dict[str, Any]]:
    done = estimator("forecast", path, "--json", *options)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["scans"]
    return found


def test_json_has_an_object_per_scan(saved: Path) -> None:
    found = scans(saved, "--scans", 6, "--min-coverage", 0)
    assert [row["full_scans"] for row in found] == [1, 2, 3, 4, 5, 6]
    first, last = found[0], found[-1]
    assert first["pages_volatile"] == first["ksm_rmap_items"] == first["pages_scanned"]
    assert all(sum(row[name] for name in COUNTERS) == row["ksm_rmap_items"] for row in found)
    predicted = json.loads(estimator("predict", saved, "--json", "--min-coverage", 0).stdout)
    assert last["pages_sharing"] == predicted["counters"]["pages_sharing"]
    assert last["bytes_saved"] == predicted["physical"]["bytes_saved"]
    assert {row["cpu_seconds"] for row in found} == {None}
    assert not any(row["bounds"] for row in found)


def test_smart_scan_as_in_the_snapshot_or_as_asked(saved: Path) -> None:
    skips = [row["pages_skipped"] for row in scans(saved, "--scans", 6)]
    assert skips[:4] == [0, 0, 0, 0]
    assert skips[4] == skips[5] > 0
    assert scans(saved, "--scans", 6, "--no-smart-scan")[-1]["pages_skipped"] == 0


def test_times(saved: Path) -> None:
    found = scans(saved, "--scans", 2, "--pages-to-scan", 1000, "--sleep", 50, "--page-cost", 2)
    pages = found[0]["pages_scanned"]
    asleep = pages // 1000 * 0.05
    assert found[0]["cpu_seconds"] == pytest.approx(pages * 2e-6)
    assert found[0]["seconds"] == pytest.approx(asleep + pages * 2e-6)
    assert found[1]["seconds"] == pytest.approx(2 * asleep + 0.05 + 2 * pages * 2e-6)


def test_text_says_when_most_is_saved(saved: Path) -> None:
    done = estimator("forecast", saved)
    assert done.returncode == 0
    assert "after 2 full scans" in done.stdout
    assert "90% of that after scan 2" in done.stdout
    assert "lower bound" in done.stdout.replace("\n", " ")
    with_cost = estimator("forecast", saved, "--page-cost", 2).stdout
    assert "2 µs of CPU (given)" in with_cost
    assert "CPU" in with_cost


def test_bounds_are_told(tmp_path: Path) -> None:
    made = System("6.12", pages_to_scan=100, sleep_millisecs=20)
    made.process(*folio([0, 0, *made.unique(2)]), *small(7))
    made.process(*small(7))
    snapshot = _complete(made.snapshot())
    found = forecast(snapshot, Policy(scope="enabled"))
    assert found.bounds.reasons
    told = forecast_json(found, pace(snapshot, found))
    low, high = told["scans"][1]["bounds"]["pages_sharing"]
    assert (low, high) == (0, 1)
    assert told["scans"][-1]["bounds"] == {}
    write_snapshot(snapshot, tmp_path / "zeroes.ksm")
    done = estimator("forecast", tmp_path / "zeroes.ksm", "--scope", "enabled")
    assert "searches of the unstable tree give up" in done.stdout.replace("\n", " ")
    assert " to 12.0 KiB" in done.stdout


def test_what_ksmd_has_seen_before_is_told() -> None:
    snapshot = fork_server()
    processes = snapshot.processes.assign(ksm_rmap_items=snapshot.processes["ksm_rmap_items"] + 9)
    seen = replace(snapshot, processes=processes)
    found = forecast(seen, smart_scan=False, scans=4)
    assert "seen pages of these processes before" in found.bounds.reasons[0]
    exact = forecast(snapshot, smart_scan=False, scans=4)
    assert found.scans.equals(exact.scans)
    assert (
        found.bounds.most["pages_sharing"].tolist()[:2]
        == exact.scans["pages_sharing"].tolist()[1:3]
    )
    assert found.bounds.least["pages_sharing"].equals(exact.scans["pages_sharing"])


def test_refusals(saved: Path, tmp_path: Path) -> None:
    done = estimator("forecast", saved, "--scans", 0)
    assert done.returncode == 2
    assert estimator("forecast", tmp_path / "none.ksm").returncode == 3
    old = System("6.1")
    old.process(*small(1, 1))
    write_snapshot(_complete(old.snapshot()), tmp_path / "old.ksm")
    done = estimator("forecast", tmp_path / "old.ksm", "--smart-scan", "--scope", "enabled")
    assert (done.returncode, "6.1 has none" in done.stderr) == (2, True)
    done = estimator("forecast", tmp_path / "old.ksm", "--scope", "enabled")
    assert (done.returncode, "--pages-to-scan" in done.stderr) == (5, True)


def test_a_setting_that_is_not_known() -> None:
    made = system([], pages_to_scan=100)
    snapshot = replace(made, info=made.info | {"ksm": made.info["ksm"] | {"sleep_millisecs": None}})
    found = forecast(snapshot)
    with pytest.raises(CannotAnswerError, match="--sleep"):
        pace(snapshot, found)
    assert pace(snapshot, found, sleep_millisecs=0, cost=PageCost(1e-6, "given")).marks == {}


def _complete(snapshot: Snapshot) -> Snapshot:
    """What a snapshot has to say besides to be written."""
    return replace(snapshot, info=fork_server().info | snapshot.info)

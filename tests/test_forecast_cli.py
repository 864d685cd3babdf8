"""The command ``forecast``: its table, its JSON, its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator.advice.advisor import AdvisorSettings
from estimator.advice.moment import Foretell, marks, moment, until
from estimator.advice.pace import Pace, Pacing, pace, pacing_of
from estimator.advice.page_cost import CostRange, PageCost, page_cost
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import Forecast, forecast
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.forecast_sections import forecast_json
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.synthetic import System, folio, small
from tests.systems import fork_server, system

COST = CostRange(PageCost(1e-7, "given"), PageCost(1e-7, "given"))
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
    assert {name for row in found for name in row["bounds"]} == {
        "seconds",
        "cpu_seconds",
        "page_seconds",
    }
    low, high = last["bounds"]["cpu_seconds"]
    assert low == pytest.approx(last["pages_scanned"] * 3.4e-6)  # as published
    assert high == last["cpu_seconds"] == pytest.approx(last["pages_scanned"] * 10.2e-6)


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
    assert "90% of that in scan 2" in done.stdout
    assert "as published or measured elsewhere" in done.stdout.replace("\n", " ")
    with_cost = estimator("forecast", saved, "--page-cost", 2).stdout
    assert "2 µs of CPU (given)" in with_cost


def test_bounds_are_told(tmp_path: Path) -> None:
    made = System("6.12", pages_to_scan=100, sleep_millisecs=20)
    made.process(*folio([0, 0, *made.unique(2)]), *small(7))
    made.process(*small(7))
    snapshot = _complete(made.snapshot())
    found = forecast(snapshot, Policy(scope="enabled"))
    assert found.bounds.reasons
    told = forecast_json(found, paced(snapshot, found))
    low, high = told["scans"][1]["bounds"]["pages_sharing"]
    assert (low, high) == (0, 1)
    assert "pages_sharing" not in told["scans"][-1]["bounds"]
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
    for smart_scan in (False, True):
        info = seen.info | {"ksm": seen.info["ksm"] | {"smart_scan": int(smart_scan)}}
        told = predict(replace(seen, info=info), Policy(scope="enabled")).warnings
        assert any("in one scan of nine" in text for text in told) == smart_scan


def test_refusals(saved: Path, tmp_path: Path) -> None:
    done = estimator("forecast", saved, "--scans", 0)
    assert done.returncode == 2
    assert estimator("forecast", tmp_path / "none.ksm").returncode == 3
    old = System("6.1")
    old.process(*small(1, 1))
    write_snapshot(_complete(old.snapshot()), tmp_path / "old.ksm")
    given = ("--scope", "enabled", "--pages-to-scan", 100, "--sleep", 20)
    done = estimator("forecast", tmp_path / "old.ksm", "--smart-scan", *given)
    assert (done.returncode, "6.1 has none" in done.stderr) == (2, True)
    done = estimator("forecast", tmp_path / "old.ksm", "--scope", "enabled")
    assert (done.returncode, "--pages-to-scan" in done.stderr) == (5, True)


def test_a_setting_that_is_not_known() -> None:
    made = system([], pages_to_scan=100)
    snapshot = replace(made, info=made.info | {"ksm": made.info["ksm"] | {"sleep_millisecs": None}})
    with pytest.raises(CannotAnswerError, match="--sleep"):
        pacing_of(snapshot)
    pacing = pacing_of(snapshot, sleep_millisecs=0)
    assert pace(snapshot, forecast(snapshot), pacing, COST).marks == {}


def test_the_advisor_sets_pages_to_scan_scan_by_scan(saved: Path) -> None:
    """By hand: scans shorter than a second, and CPU time far below a percent of one."""
    options = ("--advisor", "scan-time", "--sleep", 0, "--page-cost", 0.1, "--scans", 4)
    found = scans(saved, *options)
    assert [row["pages_to_scan"] for row in found] == [500, 5000, 30000, 30000]
    few = scans(saved, *options, "--min-pages", 7, "--max-pages", 50)
    assert [row["pages_to_scan"] for row in few] == [7, 50, 50, 50]
    assert few[0]["batches"] == few[0]["pages_scanned"] // 7 + 1


def test_the_first_step_counts_what_ksmd_used_since_boot() -> None:
    made = fork_server()
    ran = replace(made, info=made.info | {"ksm": made.info["ksm"] | {"ksmd_cpu_ns": 50 * 10**7}})
    settings = AdvisorSettings()
    found = forecast(made, scans=2)
    fresh, used = (
        pace(s, found, pacing_of(s, sleep_millisecs=0, advisor=settings), COST).scans
        for s in (made, ran)
    )
    assert fresh["pages_to_scan"].tolist() == [500, 5000]
    assert used["pages_to_scan"].tolist() == [500, 500 // 50 * 10]


def test_an_advisor_that_is_on_goes_on(tmp_path: Path) -> None:
    made = fork_server()
    ksm = made.info["ksm"] | {"advisor_mode": 1, "advisor_target_scan_time": 60}
    write_snapshot(replace(made, info=made.info | {"ksm": ksm}), tmp_path / "on.ksm")
    done = estimator("forecast", tmp_path / "on.ksm", "--json")
    told = json.loads(done.stdout)
    assert told["settings"]["advisor"]["target_scan_time"] == 60
    assert told["settings"]["pages_to_scan"] == ksm["pages_to_scan"]
    assert "on already" in estimator("forecast", tmp_path / "on.ksm").stdout
    answer = json.loads(estimator("forecast", tmp_path / "on.ksm", "--json").stdout)
    assert any("on already" in warning for warning in answer["warnings"])
    for options in (("--advisor", "none"), ("--pages-to-scan", 300)):
        off = json.loads(estimator("forecast", tmp_path / "on.ksm", "--json", *options).stdout)
        assert off["settings"]["advisor"] is None


def test_what_does_not_fit_the_advisor(saved: Path, tmp_path: Path) -> None:
    for options, words in (
        (("--max-cpu", 20), "add --advisor scan-time"),
        (("--advisor", "scan-time", "--pages-to-scan", 100), "--min-pages"),
        (("--for", "10 parsecs"), "no duration"),
        (("--for", "1min", "--scans", 3), "both say"),
    ):
        done = estimator("forecast", saved, *options)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    old = System("6.1")
    old.process(*small(1, 1))
    write_snapshot(_complete(old.snapshot()), tmp_path / "old.ksm")
    done = estimator("forecast", tmp_path / "old.ksm", "--advisor", "scan-time")
    assert (done.returncode, "has none" in done.stderr) == (2, True)


def test_whose_pages_merge_when(saved: Path) -> None:
    """As many at rest as predict says of each process, and as many in each scan as in all."""
    told = json.loads(estimator("forecast", saved, "--by", "process", "--json").stdout)
    at_rest = json.loads(estimator("predict", saved, "--json").stdout)["processes"]
    expected = {p["pid"]: p["ksm_merging_pages"] for p in at_rest if p["ksm_merging_pages"]}
    assert {one["pid"]: one["ksm_merging_pages"][-1] for one in told["who"]} == expected
    each_scan = zip(*(one["ksm_merging_pages"] for one in told["who"]), strict=True)
    merged = [scan["pages_shared"] + scan["pages_sharing"] for scan in told["scans"]]
    assert [sum(pages) for pages in each_scan] == merged
    units = json.loads(estimator("forecast", saved, "--by", "service", "--json").stdout)["who"]
    assert sum(one["ksm_merging_pages"][-1] for one in units) == merged[-1]
    assert len({one["unit"] for one in units}) == len(units) < len(told["who"])
    text = estimator("forecast", saved, "--by", "service").stdout
    assert "When whose pages merge, by service" in text
    assert units[0]["unit"] in text


def test_for_so_long(saved: Path) -> None:
    """Batches of 100 pages, each 0.2 ms of work and 20 ms of sleep: 49 are done in a second."""
    options = ("--pages-to-scan", 100, "--sleep", 20, "--page-cost", 2)
    told = json.loads(estimator("forecast", saved, "--json", "--for", "1s", *options).stdout)
    then = told["then"]
    pages = told["scans"][0]["pages_scanned"]
    began, done = 0.0, 0
    while began + (batch := pages // 100 * 0.0202 + pages % 100 * 2e-6) <= 1:
        began, done = began + batch + 0.02, done + 1
    visited = done * pages + (within := int((1 - began) / 0.0202) * 100)
    assert then["full_scans"] == [done, done]
    assert visited <= then["scanned_pages"][0] == then["scanned_pages"][1] <= visited + 100
    assert 0 < within < pages
    assert len(told["scans"]) == done + 1
    later = json.loads(estimator("forecast", saved, "--json", "--for", "1h", *options).stdout)
    assert later["then"]["counters"]["bytes_saved"] == [later["at_rest"]["bytes_saved"]] * 2
    text = estimator("forecast", saved, "--for", "1min", *options).stdout
    assert "After 1 min" in text


def test_a_time_within_the_costs_of_a_page() -> None:
    """A page that costs less lets more be done."""
    snapshot = fork_server()
    cost = CostRange(PageCost(1e-6, "a"), PageCost(1e-4, "b"))
    scan_seconds = forecast(snapshot).scans["pages_scanned"].iloc[0] * cost.least.seconds
    _, _, then = until(
        Foretell(snapshot, Policy()), Pacing(100, 0), cost, seconds=1.5 * scan_seconds
    )
    assert then is not None
    assert then.scanned_pages[0] < then.scanned_pages[1]
    assert then.full_scans[0] < then.full_scans[1]
    assert then.counters["bytes_saved"][0] == 0 < then.counters["bytes_saved"][1]


def test_marks_are_found_page_by_page() -> None:
    """Just before a mark less than its share is saved, and at it that much."""
    snapshot = fork_server()
    found = forecast(snapshot)
    times = pace(snapshot, found, Pacing(100, 20), COST)
    whole = found.at_rest.physical["bytes_saved"]
    assert [mark.share for mark in marks(found, times)] == [0.5, 0.9, 0.99]
    for mark in marks(found, times):
        (low, high), share = mark.seconds, mark.share
        assert low == high < times.scans["seconds"].iloc[1]
        at, before = (moment(found, times, s) for s in (high + 1e-9, high - COST.most.seconds))
        assert at.counters["bytes_saved"][0] >= share * whole > before.counters["bytes_saved"][1]
        assert at.cpu_seconds[0] == pytest.approx(mark.cpu_seconds[0])


def paced(snapshot: Snapshot, found: Forecast) -> Pace:
    return pace(snapshot, found, pacing_of(snapshot), page_cost(snapshot))


def _complete(snapshot: Snapshot) -> Snapshot:
    """What a snapshot has to say besides to be written."""
    return replace(snapshot, info=fork_server().info | snapshot.info)

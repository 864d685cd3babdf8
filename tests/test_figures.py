"""The page of published figures: its arithmetic, its tables, and that it sees what differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.checks import check_snapshot
from tests.lab import figures
from tests.lab.figures import NodeScan, cost_of, scan_rows, skipped_until, virt_handler_sleep
from tests.lab.figures_found import COSTS, PAGES_TO_SCAN, Found
from tests.lab.figures_guest import GuestTruth, TimedScan, load
from tests.lab.figures_page import page
from tests.lab.figures_tables import (
    advised_table,
    compare_history,
    node_table,
    skip_table,
    timed_table,
)
from tests.lab.instagram import PROCESSES, PUBLISHED, as_published, script, synthetic
from tests.lab.truth import HISTORY


def scan(number: int, scanned: int, skipped: int, **more: Any) -> dict[str, Any]:
    """A scan of ``forecast --json``: 1 s asleep and 1 or 2 s awake in each."""
    bounds = {"seconds": [2 * number, 3 * number], "cpu_seconds": [number, 2 * number]}
    return {
        **dict.fromkeys(HISTORY[1:], 7),
        "full_scans": number,
        "pages_scanned": scanned,
        "pages_skipped": skipped,
        "pages_to_scan": 100,
        "batches": 10,
        "seconds": 3 * number,
        "cpu_seconds": 2 * number,
        "bounds": bounds,
        **more,
    }


ANSWER = {
    "scans": [scan(1, 1000, 0), scan(2, 1400, 600)],
    "at_rest": {**PUBLISHED, "ksm_rmap_items": 19_671_712, "full_scans": 2},
}


def truth(**last: int) -> GuestTruth:
    """A guest whose counters are those of ``ANSWER``, but for ``last``."""
    history = [
        {name: row[name] for name in HISTORY} for row in (scan(1, 1000, 0), scan(2, 1400, 600))
    ]
    history[-1] |= last
    timed = [TimedScan(2, 100, 400, 11, 0.352, 0.11)]
    return GuestTruth("6.12.1", history, timed, [(10, 500, 20), (25, 480, 40)])


def test_shape_gives_the_published_counters() -> None:
    shape = as_published()
    merged = PUBLISHED["pages_shared"] + PUBLISHED["pages_sharing"]
    items = merged + PUBLISHED["pages_unshared"] + PUBLISHED["pages_volatile"]
    assert abs(PROCESSES * shape.pages - items) < PROCESSES * 2
    assert shape.frames < 64 * 10**9 / 4096  # they fit into the machine
    part = replace(shape.part(100), common=2)
    snapshot = synthetic(part)
    check_snapshot("the snapshot", snapshot)
    counters = predict(snapshot, Policy(scope="enabled")).counters
    assert counters["pages_volatile"] == part.forked * (PROCESSES - 1)
    assert counters["pages_unshared"] == part.forked + PROCESSES * part.own
    copies = part.copies * PROCESSES
    dups = 2 * -(-copies // 256)
    assert counters["stable_node_chains"] == 2
    assert counters["stable_node_dups"] == dups
    assert counters["pages_shared"] == part.equal + dups
    together = counters["pages_shared"] + counters["pages_sharing"]
    assert together == PROCESSES * (part.equal + part.twice) + 2 * copies


def test_script_maps_as_many_pages_as_the_shape_says() -> None:
    shape = as_published().part(8)
    lines = script(shape).splitlines()
    mapped = [int(line.split()[2]) for line in lines if line.startswith("map")]
    assert sum(mapped) == shape.forked + 2 * (shape.pages - shape.forked)
    assert len(lines) < 512  # as many lines has the actor room for


def test_scans_of_a_forecast_one_by_one() -> None:
    first, second = scan_rows(ANSWER)
    assert (first.pages, first.skipped, second.pages, second.skipped) == (1000, 0, 400, 600)
    assert list(second.seconds) == [2, 3]
    assert second.cpu_share == pytest.approx((0.5, 2 / 3))
    assert second.skipped_share == 0.6
    assert skipped_until([first, second]) == [0, 0.3]


def test_cost_of_a_page_counts_the_sleep_after_the_batch() -> None:
    assert cost_of(0.6, 5000) == pytest.approx(6e-6)
    assert cost_of(0.5, 1000, 50) == pytest.approx(50e-6)


def test_sleep_of_virt_handler_falls_with_used_memory_down_to_10_ms() -> None:
    assert [virt_handler_sleep(gib, 0.8) for gib in (16, 96, 256)] == [125, 20, 10]


def test_a_counter_that_differs_is_told() -> None:
    assert compare_history(truth(), ANSWER).different == {}
    compared = compare_history(truth(pages_sharing=8), ANSWER)
    assert compared.compared == 2 * (len(HISTORY) - 1)
    assert compared.different == {"pages_sharing after scan 2": (7, 8)}
    assert "pages_sharing after scan 2: forecast 7, ksmd 8" in page(found(pages_sharing=8), "c0")


def test_timed_scans_stand_beside_their_forecast() -> None:
    row = timed_table(truth(), {100: scan_rows(ANSWER)}).splitlines()[-1]
    assert row == "| 100 | 2 | 400 | 400 | 10 | 11 | 22.0 ms |"


def test_skipped_shares_are_sums_since_the_start() -> None:
    rows = scan_rows(ANSWER)
    last = skip_table(rows, rows, truth(pages_skipped=1400)).splitlines()[-1]
    assert last == "| 2 | 30.0 % | 30.0 % | 50.0 % |"


def test_the_advisors_rule_starts_from_the_kernels_default() -> None:
    first, second = advised_table(truth()).splitlines()[-2:]
    # scan 10 s, target 25 s: 500 * 100 / 250 * 30 / 100 pages, at least 500 / 20 * 10
    assert first == "| 1 | 10 s | 20 % | 250 | 500 |"
    assert second.startswith("| 2 | 25 s | 40 % |")


def test_nodes_in_proportion_are_marked() -> None:
    scans = [
        NodeScan(16, 1000, 50, (60, 120), 2, True),
        NodeScan(256, 1000, 50, (14400, 14400), 2, False),
    ]
    told = node_table(scans, {16: "3.5 min", 256: "56 min"}).splitlines()[-2:]
    assert told[0] == "| 16 GiB | 1,000 | 50 | 3.5 min | 1.0 min to 2.0 min | 2 scans |"
    assert told[1] == "| 256 GiB | 1,000 | 50 | 56 min | 4.0 h * | 2 scans |"


def test_forecasts_are_asked_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "VM_GIB", 1)
    monkeypatch.setattr(figures, "GIB_PAGES", 400)
    monkeypatch.setattr(figures, "NODE_GIB", (2,))
    forecasts = figures.Forecasts(tmp_path)
    small, double = figures.node_scans(forecasts, [(2, 100, 50), (4, 100, 50)])
    assert small.made_up
    assert not double.made_up
    assert small.merged_after_scans == 2
    assert small.seconds[0] == pytest.approx(9 * 0.05 + 800 * 3.4e-6, rel=0.02)
    assert double.seconds[0] == pytest.approx(2 * small.seconds[0])
    (answer,) = tmp_path.glob("forecast-*.json")  # the same question is asked once
    assert json.loads(answer.read_text())["at_rest"]["ksm_zero_pages"] == 200


def test_truth_is_kept(tmp_path: Path) -> None:
    truth().save(tmp_path / "truth.json")
    kept = load(tmp_path / "truth.json")
    assert kept.timed == truth().timed
    assert kept.history == truth().history


def found(**last: int) -> Found:
    """What the page is made of, in small."""
    rows = scan_rows(ANSWER)
    told = truth(**last)
    by_cost = dict.fromkeys(COSTS, dict.fromkeys(PAGES_TO_SCAN, rows[0]))
    node = NodeScan(16, 1000, 50, (60, 120), 2, True)
    compared = compare_history(told, ANSWER)
    timed = {100: rows}
    nodes = [node], [node], (3.4, 10.2)
    fewer = dict.fromkeys(COSTS, rows)
    return Found(ANSWER, by_cost, rows, rows, timed, rows, fewer, compared, told, *nodes)


def test_page_names_its_commit_and_its_sources() -> None:
    text = page(found(), "c0ffee")
    assert "at commit c0ffee" in text
    assert "20 numbers, of which 20 are as forecast" in " ".join(text.split())
    assert "Not equal" not in text
    assert text.count("https://") >= 7

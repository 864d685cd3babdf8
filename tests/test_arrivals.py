"""Processes that come while ksmd runs: the patterns, the times, the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from estimator.advice.moment import Foretell
from estimator.advice.pace import Pacing
from estimator.advice.page_cost import CostRange, PageCost
from estimator.advice.ramp import Ramp, as_started, one_by_one, ramp
from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm import arrivals
from estimator.ksm.arrivals import Arriving, patterns_of, table_of
from estimator.ksm.case import Case
from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.ksm.predict import ask, predict
from estimator.ksm.simulation import Items
from estimator.report.ramp_sections import ramp_json
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.synthetic import System, folio, small
from tests.systems import Area, Process, fork_server, system
from tests.test_model_closed_forms import case_of, systems

ENABLED = Policy(scope="enabled")
COST = CostRange(PageCost(1e-6, "given"), PageCost(1e-6, "given"))
SCANS = 40


def of_base_pages(made: System) -> tuple[Snapshot, Case]:
    """A system without huge and merged pages, which are not followed."""
    snapshot = made.snapshot()
    case, _ = case_of(snapshot)
    assume(not (case.facts.folio >= 0).any() and not case.facts.ksm.any())
    return snapshot, case


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_all_at_once_is_the_forecast(made: System) -> None:
    snapshot, case = of_base_pages(made)
    ksmd = Arriving(case, patterns_of(case, np.zeros(len(snapshot.processes), np.int64)))
    found = table_of([ksmd.scan(1) for _ in range(SCANS)])
    pd.testing.assert_frame_equal(
        found, forecast(snapshot, ENABLED, scans=SCANS).scans, check_dtype=False
    )


def each_for_itself(items: Items, *_: object) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    contents = int(items.content.max(initial=-1)) + 1
    return np.arange(len(items)), np.ones(contents, np.int64)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems(), st.data())
def test_a_pattern_stands_for_all_contents_that_are_like_it(made: System, data: Any) -> None:
    snapshot, case = of_base_pages(made)
    count = len(snapshot.processes)
    group = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    groups = st.integers(0, int(group.max()) + 1)
    came = data.draw(st.lists(groups, min_size=30, max_size=30).map(sorted))
    tables = []
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(2):
            ksmd = Arriving(case, patterns_of(case, group.astype(np.int64)))
            tables.append(table_of([ksmd.scan(groups) for groups in came]))
            patch.setattr(arrivals, "_alike", each_for_itself)
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_contents_of_one_pattern_are_counted_and_not_followed() -> None:
    snapshot = system([Process("a", [Area([1, 2, 3, 7, 7])]), Process("b", [Area([1, 2, 3, 8])])])
    case = arrivals_case(snapshot)
    found = patterns_of(case, np.array([0, 1]))
    # three contents that both have, one twice in a, one in b alone
    assert sorted(found.weight.tolist()) == [1, 1, 3]
    assert len(found.items) == 2 + 2 + 1


@pytest.mark.parametrize("trait", [{"pins": 1}, {"outside": 1}, {"content": 0}])
def test_what_an_item_is_makes_another_pattern(trait: dict[str, int]) -> None:
    """Of four contents that two processes have, the last one is pinned, mapped by others, zero."""
    made = System(smart_scan=0)
    for _ in range(2):
        odd = small(trait.get("content", 4), **{k: v for k, v in trait.items() if k != "content"})
        made.process(*small(1, 2, 3), *odd)
    found = patterns_of(arrivals_case(made.snapshot()), np.array([0, 1]))
    assert sorted(found.weight.tolist()) == [1, 3]


def arrivals_case(snapshot: Snapshot) -> Case:
    return ask(snapshot).case


@pytest.mark.parametrize(
    ("before", "meet"), [(4, True), (13, False), (15, False), (16, False), (17, True), (14, True)]
)
def test_with_smart_scan_pages_of_different_times_may_never_meet(before: int, meet: bool) -> None:
    """Processed are the first's in scans 14, 23 ..., the other's 13, 22 ... after it came."""
    snapshot = system([Process("a", [Area([1, 2])]), Process("b", [Area([1, 2])])], smart_scan=1)
    case = arrivals_case(snapshot)
    ksmd = Arriving(case, patterns_of(case, np.array([0, 1])))
    rows = [ksmd.scan(1) for _ in range(before)] + [ksmd.scan(2) for _ in range(60)]
    assert rows[-1]["pages_sharing"] == (2 if meet else 0)
    without = system([Process("a", [Area([1, 2])]), Process("b", [Area([1, 2])])], smart_scan=0)
    case = arrivals_case(without)
    ksmd = Arriving(case, patterns_of(case, np.array([0, 1])))
    rows = [ksmd.scan(1) for _ in range(before)] + [ksmd.scan(2) for _ in range(2)]
    assert [row["pages_sharing"] for row in rows[-2:]] == [0, 2]


@pytest.mark.parametrize("counts", [True, False])
def test_zero_pages_that_fork_copies_are_counted_where_its_kernel_does(counts: bool) -> None:
    made = System(use_zero_pages=1)
    made.features["fork_counts_zero_pages"] = counts
    zero = small(0, 0, 0)
    made.process(*zero)
    made.process(*zero)
    made.process(*small(0))
    case = arrivals_case(made.snapshot())
    ksmd = Arriving(case, patterns_of(case, np.array([0, 1, 2])))
    rows = [ksmd.scan(came) for came in (1, 1, 2, 3, 3)]
    copied = 3 * counts
    assert [row["ksm_zero_pages"] for row in rows] == [0, 3, 3 + copied, 3 + copied, 4 + copied]
    assert [row["frames_freed"] for row in rows] == [0, 3, 3, 3, 4]
    last = rows[-1]
    assert last["general_profit"] == (4 + copied) * 4096 - last["ksm_rmap_items"] * 64


def forked() -> Snapshot:
    """A server with two equal pages, and a child that shares both frames."""
    names = ["f1", "f2"]
    return system(
        [
            Process("server", [Area([5, 5], frames=names)]),
            Process("child", [Area([5, 5], frames=names)]),
        ],
        smart_scan=0,
    )


def test_a_child_maps_what_its_parent_maps_by_then() -> None:
    case = arrivals_case(forked())
    ksmd = Arriving(case, patterns_of(case, np.array([0, 1])))
    rows = [ksmd.scan(1), ksmd.scan(1), ksmd.scan(2)]
    assert [row["frames_freed"] for row in rows] == [0, 1, 1]
    # a KSM page that was forked is on its node at the first visit, and needs no checksum
    assert [row["pages_sharing"] for row in rows] == [0, 1, 3]
    late = Arriving(case, patterns_of(case, np.array([0, 0])))
    assert [late.scan(1)["pages_sharing"] for _ in range(3)] == [0, 3, 3]


def follow(snapshot: Snapshot, when: Callable[..., Any], **options: Any) -> Ramp:
    pacing = options.pop("pacing", Pacing(10, 100))
    foretell = Foretell(snapshot, Policy(), smart_scan=options.pop("smart_scan", None))
    return ramp(foretell, when, pacing, COST, **options)


def test_processes_come_in_the_order_of_their_start() -> None:
    snapshot = fork_server()
    started = snapshot.processes["start_time_ns"].to_numpy().copy()
    started[:3] = [50_000_000_000, 0, 1_000_000_000]
    snapshot = replace(snapshot, processes=snapshot.processes.assign(start_time_ns=started))
    mms = np.array([0, 1, 2])
    assert one_by_one(1, 5.0)(snapshot, mms).tolist() == [10.0, 0.0, 5.0]
    assert one_by_one(2, 5.0)(snapshot, mms).tolist() == [5.0, 0.0, 0.0]
    assert as_started(snapshot, mms).tolist() == [50.0, 0.0, 1.0]


def test_who_comes_during_a_scan_is_visited_in_the_next() -> None:
    """24 pages in batches of 10, with 0.1 s after each: a scan ends each 0.3 s."""
    pages = [Process(name, [Area(list(range(1, 25)))]) for name in "abc"]
    found = follow(system(pages, smart_scan=0), one_by_one(1, 0.31))
    # the first scan ends at 0.2 s, the next begins at 0.3 s; the second process comes at 0.31 s
    assert found.scans["processes"].tolist() == [1, 1, 2, 3, 3]
    assert found.scans["seconds"].iloc[0] == pytest.approx(0.2 + 24e-6)
    assert found.scans["pages_sharing"].tolist() == [0, 0, 0, 24, 48]
    assert found.ended
    assert found.at_once_bytes == found.scans["bytes_saved"].iloc[-1] == 48 * 4096


def test_it_ends_where_it_is_told() -> None:
    pages = [Process(name, [Area(list(range(1, 25)))]) for name in "abc"]
    snapshot = system(pages, smart_scan=0)
    assert len(follow(snapshot, one_by_one(1, 1), scans=7).scans) == 7
    early = follow(snapshot, one_by_one(1, 100.0), seconds=1.0)
    assert len(early.scans) == 4
    assert not early.ended
    with pytest.raises(UsageError, match="until all processes have come"):
        follow(snapshot, one_by_one(1, 1e6))


def test_merged_before_or_not_it_starts_from_nothing() -> None:
    made = System(run=1, pages_to_scan=10, sleep_millisecs=100, smart_scan=0)
    merged = small(7)[0]
    made.stable_node(merged)
    for _ in range(3):
        made.process(merged)
    found = follow(made.snapshot(), one_by_one(1, 0.0))
    assert found.scans["pages_sharing"].tolist() == [0, 2]
    assert found.at_rest.counters["pages_sharing"] == 2
    assert any("as if it never had" in warning for warning in ramp_json(found)["warnings"])
    fresh = follow(fork_server(), one_by_one(1, 0.0))
    assert not any("as if it never had" in warning for warning in ramp_json(fresh)["warnings"])


def test_scanned_before_or_not_it_starts_from_nothing() -> None:
    made = System(pages_to_scan=10, sleep_millisecs=100, smart_scan=1)
    made.processes_with(small(7), small(7))
    snapshot = made.snapshot()
    snapshot.mappings["visits"] = np.array([13, 0], np.uint8)
    found = follow(snapshot, one_by_one(2, 0.0))
    assert found.scans["pages_sharing"].tolist()[-1] == 1
    assert found.at_rest.counters["pages_sharing"] == 1


def test_nobody_arrives() -> None:
    with pytest.raises(CannotAnswerError, match="nobody arrives"):
        ramp(Foretell(system([Process("a", [Area([1])])]), ENABLED), as_started, Pacing(1, 1), COST)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made = System(pages_to_scan=100, sleep_millisecs=20)
    for number in range(4):
        made.process(*folio([7, number, 3, 4] * 4), *small(*range(20, 60)))
    snapshot = made.snapshot()
    of_it = {k: v for k, v in system([]).info.items() if k not in snapshot.info}
    write_snapshot(replace(snapshot, info=snapshot.info | of_it), tmp_path / "s.ksm")
    return tmp_path / "s.ksm"


def test_the_command_says_who_came_and_what_is_simpler_than_it_is(saved: Path) -> None:
    done = estimator("forecast", saved, "--ramp", 1, "--every", "5s", "--smart-scan")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "4 processes come within 15 s." in text
    assert "64 pages are in huge pages" in text
    told = json.loads(
        estimator("forecast", saved, "--ramp", 1, "--every", "5s", "--smart-scan", "--json").stdout
    )
    assert told["arrivals_seconds"] == [0, 5, 10, 15]
    assert told["large_pages"] == 64
    shown = told["scans"][-1]
    assert f"After {shown['full_scans']} full scans" in text
    whole = json.loads(estimator("predict", saved, "--json").stdout)["counters"]
    assert told["at_rest"]["pages_sharing"] == whole["pages_sharing"]


def test_what_keeps_equal_pages_apart_is_told() -> None:
    pages = [Process(name, [Area(list(range(1, 25)))]) for name in "ab"]
    apart = ramp_json(follow(system(pages, smart_scan=1), one_by_one(1, 2.45)))  # in scan 13
    assert any("may never meet" in warning for warning in apart["warnings"])
    assert apart["scans"][-1]["bytes_saved"] == 0
    together = ramp_json(follow(system(pages, smart_scan=1), one_by_one(2, 1.0)))
    assert not any("may never meet" in warning for warning in together["warnings"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ramp", 2), "--ramp N needs --every"),
        (("--every", "5s"), "--ramp N needs --every"),
        (("--as-started", "--ramp", 2, "--every", "5s"), "both say when"),
        (("--as-started", "--reach", "90%", "--within", "5min"), "all there from the start"),
        (("--ramp", 0, "--every", "5s"), "--ramp"),
    ],
)
def test_refusals(saved: Path, options: tuple[object, ...], said: str) -> None:
    done = estimator("forecast", saved, *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_end_without_smart_scan_is_the_prediction_at_rest() -> None:
    """Whoever comes when: of pages that nothing keeps from merging."""
    snapshot = fork_server()
    for when in (one_by_one(1, 0.7), one_by_one(3, 2.0), as_started):
        found = follow(snapshot, when, smart_scan=False)
        at_rest = predict(snapshot)
        for name in ("pages_shared", "pages_sharing", "pages_unshared", "ksm_rmap_items"):
            assert found.scans[name].iloc[-1] == at_rest.counters[name], name
        assert found.scans["bytes_saved"].iloc[-1] == at_rest.physical["bytes_saved"]

"""What ksmd costs: where the cost of a page comes from, and the settings that follow from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.advice.attribution import scanned_pages
from estimator.advice.moment import marks
from estimator.advice.pace import Pacing, pace
from estimator.advice.page_cost import PUBLISHED, PageCost, page_cost
from estimator.advice.plan import make_plan
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.report.as_json import plan_json
from estimator.report.commands import settings_commands
from estimator.report.forecast_plots import over_time_figure
from estimator.report.settings_words import settings_words
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System, folio, small
from tests.systems import fork_server

SNAPSHOT = fork_server()
PREDICTION: Prediction = predict(SNAPSHOT, Policy())
PAGES = PREDICTION.coverage.candidate_pages


def with_ksm(features: dict[str, bool] | None = None, **ksm: Any) -> Snapshot:
    counters = SNAPSHOT.info["ksm"]["counters"] | ksm.pop("counters", {})
    info = SNAPSHOT.info | {"ksm": SNAPSHOT.info["ksm"] | ksm | {"counters": counters}}
    info["features"] = info["features"] | (features or {})
    return replace(SNAPSHOT, info=info)


def test_without_a_figure_of_its_own_the_cost_is_a_range_with_its_sources() -> None:
    assert page_cost(SNAPSHOT) == PUBLISHED
    words = " ".join(settings_words(schedule(SNAPSHOT, PREDICTION)))
    assert "3.4 to 10.2 µs of CPU" in words
    assert PUBLISHED.least.source in words
    assert PUBLISHED.most.source in words
    assert "check --page-cost" in words


def test_where_ksm_has_run_its_own_figures_are_used() -> None:
    ran = with_ksm(ksmd_cpu_ns=6_000_000_000, counters={"pages_scanned": 2_000_000})
    cost = page_cost(ran)
    assert cost.least == cost.most
    assert cost.most.seconds == pytest.approx(3e-6)
    assert "3 µs of CPU (measured: 6.0 s of ksmd" in " ".join(
        settings_words(schedule(ran, PREDICTION))
    )
    assert page_cost(ran, PageCost(1e-6, "given")).most.source == "given"


@pytest.mark.parametrize(
    ("ksm", "micro"),
    [
        ({"pages_to_scan": 100, "counters": {"full_scans": 1000}}, (2.886, 3.03)),
        ({"pages_to_scan": 2500, "counters": {"full_scans": 4000}}, (0.5, 3.001)),
        ({"pages_to_scan": 100}, None),
        ({"pages_to_scan": None, "counters": {"full_scans": 1000}}, None),
    ],
)
def test_where_only_batches_are_counted_its_figures_are_a_range(
    ksm: dict[str, Any], micro: tuple[float, float] | None
) -> None:
    """Each is counted as a page more, and the last one of a full scan not at all."""
    counters = {"pages_scanned": 2_000_000} | ksm.get("counters", {})
    ran = with_ksm(
        {"counts_each_scanned_page": False},
        **ksm | {"ksmd_cpu_ns": 6_000_000_000, "counters": counters},
    )
    cost = page_cost(ran)
    if micro is None:
        assert cost == PUBLISHED
    else:
        found = (1e6 * cost.least.seconds, 1e6 * cost.most.seconds)
        assert found == pytest.approx(micro, rel=1e-3)


@pytest.mark.parametrize(
    "ksm",
    [
        {"ksmd_cpu_ns": None, "counters": {"pages_scanned": 2_000_000}},
        {"ksmd_cpu_ns": 6_000_000_000},
        {"ksmd_cpu_ns": 1_000_000, "counters": {"pages_scanned": 2_000_000}},
        {"ksmd_cpu_ns": 6_000_000_000, "counters": {"pages_scanned": 10}},
    ],
)
def test_too_little_of_it_is_no_measurement(ksm: dict[str, Any]) -> None:
    assert page_cost(with_ksm(**ksm)) == PUBLISHED


costs = st.floats(PUBLISHED.least.seconds, PUBLISHED.most.seconds)


@given(costs, st.floats(0.5, 1000))
@settings(max_examples=50, deadline=None)
def test_what_is_set_does_not_depend_on_which_cost_is_true(seconds: float, target: float) -> None:
    """The same files are written, and what was set without knowing keeps the time asked for."""
    unknown = schedule(SNAPSHOT, PREDICTION, target)
    known = schedule(SNAPSHOT, PREDICTION, target, PageCost(seconds, "given"))
    both = (unknown, known)
    files = [[line.split()[-1] for line in settings_commands(t).splitlines()] for t in both]
    assert files[0] == files[1]
    assert unknown.reaches_target == known.reaches_target
    assert unknown.proposed.most.pages_to_scan >= known.proposed.most.pages_to_scan
    assert unknown.proposed.least.seconds <= unknown.proposed.most.seconds <= target + 1e-9


def test_how_the_saving_comes_is_the_forecast_of_exactly_the_plan() -> None:
    """Not of all that could be opted in, and not full scans times the time of the first."""
    plan = make_plan(SNAPSHOT, share=0.5)
    assert scanned_pages(plan.prediction) < scanned_pages(plan.everything)
    times = schedule(SNAPSHOT, plan.prediction)
    found = forecast(plan.prediction.snapshot, plan.prediction.policy)
    for told, pages_to_scan in (
        (times.as_set, SNAPSHOT.info["ksm"]["pages_to_scan"]),
        (times.as_proposed, times.proposed.most.pages_to_scan),
    ):
        expected = pace(SNAPSHOT, found, Pacing(pages_to_scan, 20), PUBLISHED)
        assert told.scans.equals(expected.scans)
        answer = plan_json(plan, times, assess(SNAPSHOT, plan.prediction))["schedule"]
        last = expected.range_of("seconds", found.at_rest.scans - 1)
        course = answer["as_set" if told is times.as_set else "as_proposed"]
        assert tuple(course["seconds"]) == last
        assert [mark["seconds"] for mark in course["marks"]] == [
            mark.seconds for mark in marks(found, expected)
        ]


def test_what_is_set_now_may_be_the_advisor() -> None:
    on = with_ksm({"advisor": True}, advisor_mode=1, pages_to_scan=500)
    times = schedule(on, PREDICTION)
    assert times.as_set.pacing.advisor is not None
    assert times.as_proposed.pacing.advisor is None


def test_no_setting_takes_more_of_a_cpu_than_the_advisor_may() -> None:
    """10.2 µs for each page takes longer than the scan shall: then 70 % of a CPU, and no more."""
    times = schedule(SNAPSHOT, PREDICTION, PAGES * 10e-6)
    assert not times.reaches_target
    assert 0.6 < (times.proposed.most.cpu_share or 0) <= 0.7
    assert "would take more of a CPU than advisor_max_cpu" in " ".join(settings_words(times))
    less = schedule(with_ksm(advisor_max_cpu=20), PREDICTION, PAGES * 10e-6)
    assert 0.1 < (less.proposed.most.cpu_share or 0) <= 0.2


def test_the_advisor_is_told_of_and_switched_off() -> None:
    times = schedule(SNAPSHOT, PREDICTION)
    assert "aims at 10% of a CPU or more" in " ".join(settings_words(times))
    assert settings_commands(times).splitlines() == [
        "echo none > /sys/kernel/mm/ksm/advisor_mode",
        f"echo {times.proposed.most.pages_to_scan} > /sys/kernel/mm/ksm/pages_to_scan",
        "echo 1 > /sys/kernel/mm/ksm/run",
    ]


def test_an_older_kernel_has_none_and_one_that_runs_is_not_started() -> None:
    times = schedule(with_ksm({"advisor": False}, run=1), PREDICTION, 0.5)
    assert times.proposed.most.seconds <= 0.5
    pages_to_scan = times.proposed.most.pages_to_scan
    assert settings_commands(times) == f"echo {pages_to_scan} > /sys/kernel/mm/ksm/pages_to_scan"
    assert "advisor finds" not in " ".join(settings_words(times))


def test_where_ksmd_never_sleeps_it_is_told_to() -> None:
    """Else it takes all of a CPU, whatever pages_to_scan is."""
    times = schedule(with_ksm(sleep_millisecs=0, pages_to_scan=1_000_000_000), PREDICTION, 100.0)
    assert times.first.most.cpu_share == 1.0
    assert (times.proposed.most.cpu_share or 0) < 0.1
    assert times.proposed == schedule(SNAPSHOT, PREDICTION, 100.0).proposed
    assert "echo 20 > /sys/kernel/mm/ksm/sleep_millisecs" in settings_commands(times)
    assert "sleep_millisecs" not in settings_commands(schedule(SNAPSHOT, PREDICTION, 100.0))


def test_what_may_delay_the_plan_is_told_with_it() -> None:
    """As in test_scans: a zero-filled piece keeps others out of the tree, as bytes have it."""
    system = System("6.12", use_zero_pages=1, smart_scan=0)
    system.process(*folio([0, 0, *system.unique(2)]))
    system.processes_with(small(0, pins=1), small(*system.unique(3), pins=1))
    snapshot = system.snapshot()
    snapshot.info["ksm"] = SNAPSHOT.info["ksm"] | snapshot.info["ksm"]
    times = schedule(snapshot, predict(snapshot, Policy(scope="enabled")))
    reasons = times.forecast.bounds.reasons
    assert reasons
    assert settings_words(times)[-len(reasons) :] == list(reasons)
    line = over_time_figure(times.forecast, times.as_proposed).axes[0].lines[0]
    told = times.as_proposed.scans["bytes_saved"] / 2**20
    assert np.asarray(line.get_ydata()).tolist() == [0, *told]  # and not the lower bound

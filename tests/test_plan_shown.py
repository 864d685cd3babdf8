"""A plan as people see it: on a narrow terminal, and as a dot in the plot."""

from __future__ import annotations

import io

import numpy as np
import pytest

from estimator.advice.plan import Plan, make_plan
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.ksm.policy import Policy
from estimator.report.plots import frontier_figure
from estimator.report.tables import make_console
from estimator.report.text import render_plan
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System, small
from tests.systems import Area, Process, fork_server, system

SNAPSHOT = fork_server()


def shown(snapshot: Snapshot, plan: Plan, width: int) -> str:
    file = io.StringIO()
    times, risk = schedule(snapshot, plan.prediction), assess(snapshot, plan.prediction)
    render_plan(snapshot, plan, times, risk, make_console(file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_what_to_opt_in_can_be_read_at_any_width(width: int) -> None:
    text = shown(SNAPSHOT, make_plan(SNAPSHOT), width)
    table = text.partition("What to opt in")[2].partition("What to type")[0]
    assert "1 app.service (systemd)" in table.replace("  ", " ")
    assert "net" in table
    assert ("frees" in table) is (width == 200)
    assert all(len(line) <= width for line in table.splitlines())


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_dot_is_where_the_plan_is(share: float) -> None:
    plan = make_plan(SNAPSHOT, share=share)
    (axes,) = frontier_figure(SNAPSHOT, plan).axes
    dot = next(line for line in axes.lines if line.get_marker() == "o")
    scanned_mib = plan.prediction.coverage.candidate_pages * 4096 / 2**20
    freed_mib = plan.prediction.physical["bytes_saved"] / 2**20
    assert np.allclose(np.column_stack(dot.get_data()), [[scanned_mib, freed_mib]])


def test_no_plan_has_no_risks() -> None:
    nothing = system([Process("db", [Area([1, 2, 3])])])
    for policy in (Policy(), Policy(scope="enabled")):
        text = shown(nothing, make_plan(nothing, policy), 80)
        assert "There is nothing to propose." in text
        assert "Risk" not in text


def test_what_is_on_and_was_not_selected_is_said() -> None:
    """The two batch processes have 400 equal pages each, opted in; half of these become free."""
    plan = make_plan(SNAPSHOT, Policy(comms=("loner",)))
    (row,) = plan.elsewhere.to_dict("records")
    assert (row["cgroup"], row["comm"]) == ("/system.slice/batch.service", "batch")
    assert (row["pids"], row["vmas"]) == ([1013, 1014], 2)
    assert (row["scanned_pages"], row["saved_pages"]) == (800, 400)
    text = " ".join(shown(SNAPSHOT, plan, 80).split())
    assert "On already elsewhere" in text
    assert "each full scan has 800 pages more" in text
    assert "all of program loner 788 KiB." in text
    for policy in (Policy(), Policy(comms=("batch",)), Policy(scope="enabled")):
        plan = make_plan(SNAPSHOT, policy)
        assert plan.elsewhere.empty
        assert "elsewhere" not in shown(SNAPSHOT, plan, 80).partition("Settings of ksmd")[0]


def test_what_is_on_elsewhere_is_said_where_nothing_is_proposed() -> None:
    snapshot = system(
        [
            Process("db", [Area([1, 2, 3])]),
            Process("on", [Area([5] * 50, mergeable=True)]),
        ]
    )
    text = shown(snapshot, make_plan(snapshot, Policy(comms=("db",))), 80)
    assert "There is nothing to propose." in text
    assert "On already elsewhere" in text


def test_what_is_on_and_frees_nothing_more_is_no_loss_to_reach() -> None:
    """All of it has merged already; the records cost more than what is left to free."""
    merged = small(*range(1, 51))
    made = System("6.12", smart_scan=1, pages_to_scan=100, sleep_millisecs=20)
    for frame in merged:
        made.stable_node(frame)
    for _ in range(3):
        made.process(*merged).vmas[0].mergeable = True
    snapshot = made.snapshot()
    plan = make_plan(snapshot, Policy(scope="enabled"))
    assert plan.reachable.physical["net_bytes_saved"] < 0
    assert plan.share_reached
    text = " ".join(shown(snapshot, plan, 100).split())
    assert "What is on already frees nothing net. ksmd scans" in text
    assert "asked for" not in text


def test_one_line_is_the_line() -> None:
    twins = [Process("db", [Area(list(range(1, 900)))], cgroup="/a.service") for _ in range(2)]
    snapshot = system(twins)
    assert shown(snapshot, make_plan(snapshot), 100).startswith("Opt in the line below. ")

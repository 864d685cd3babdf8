"""Advice and forecasts, worked out in parts of the range of hashes: the same as at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from estimator import arrays
from estimator.advice.pace import pace, pacing_of
from estimator.advice.page_cost import page_cost
from estimator.advice.plan import make_plan
from estimator.advice.risk import assess
from estimator.advice.schedule import schedule
from estimator.ksm import content_parts
from estimator.ksm.forecast import Forecast, forecast
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.policy import Policy
from estimator.report.as_json import plan_json
from estimator.report.forecast_sections import forecast_json
from estimator.report.html import report_page
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator, with_least_memory
from tests.synthetic import System, folio, small
from tests.systems import fork_server
from tests.test_accounting import worn
from tests.test_hash_parts import Rooms
from tests.test_model_closed_forms import systems

MOST = st.sampled_from([0, 5, 40])
MANY = settings(
    phases=[Phase.generate], max_examples=12, deadline=None, suppress_health_check=list(HealthCheck)
)
Scope = Literal["all", "enabled"]


def _paced(snapshot: Snapshot) -> Snapshot:
    """With the settings of ksmd that say how fast it is."""
    ksm = {"pages_to_scan": 100, "sleep_millisecs": 20} | snapshot.info["ksm"]
    return replace(snapshot, info=snapshot.info | {"ksm": ksm})


def _advice(snapshot: Snapshot, policy: Policy, within: Any, room: Workroom | None) -> str:
    plan = make_plan(snapshot, policy, within=within, room=room)
    times = schedule(snapshot, plan.prediction, room=room)
    return json.dumps(plan_json(plan, times, assess(snapshot, plan.prediction)))


def _told(snapshot: Snapshot, found: Forecast) -> str:
    """The answer of ``forecast``, also within its scans."""
    timed = pace(snapshot, found, pacing_of(snapshot), page_cost(snapshot))
    told = forecast_json(found, timed, None, None, "process")
    scans = range(1, min(len(found.scans), 5) + 1)
    inside = {
        f"{scan} {pages}": (found.course.freed(scan, pages), found.within.after(scan, pages))
        for scan in scans
        for pages in range(0, len(snapshot.mappings), 3)
    }
    return json.dumps([told, inside])


@MANY
@given(
    st.one_of(worn(), systems().map(System.snapshot)),
    st.sampled_from(["all", "enabled"]),
    st.sampled_from([None, "uid", "cgroup"]),
    MOST,
)
def test_advice(snapshot: Snapshot, scope: Scope, within: str | None, most: int) -> None:
    snapshot, policy = _paced(snapshot), Policy(scope=scope)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_parts, "_ROWS_OF_A_PART", 20)
        whole = _advice(snapshot, policy, within, None)
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        assert _advice(snapshot, policy, within, Rooms(most).room()) == whole


@MANY
@given(
    st.one_of(worn(), systems().map(System.snapshot)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 9]),
    MOST,
)
def test_forecasts(
    snapshot: Snapshot, smart_scan: bool, use_zero_pages: bool, scans: int | None, most: int
) -> None:
    snapshot = _paced(snapshot)
    policy = Policy(scope="enabled", use_zero_pages=use_zero_pages)
    skips = smart_scan and bool(snapshot.info["features"]["smart_scan"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_parts, "_ROWS_OF_A_PART", 20)
        whole = forecast(snapshot, policy, smart_scan=skips, scans=scans)
        told = _told(snapshot, whole)
        patch.setattr(arrays, "_PIECE_ROWS", 16)
        room = Rooms(most).room()
        parts = forecast(snapshot, policy, smart_scan=skips, scans=scans, room=room)
        assert _told(snapshot, parts) == told
    np.testing.assert_array_equal(parts.settled_in, whole.settled_in)


def _split_and_simulated() -> Snapshot:
    """Zero-filled pieces of huge pages, and more copies than max_page_sharing shared by fork."""
    system = System(max_page_sharing=4, use_zero_pages=True)
    parent = system.process(*small(7, 7, 7, 7, *system.unique(20)), *folio([1, 0, 3, 0]))
    system.fork(parent, 3)
    system.processes_with(folio([1, 0, 8, 0]), folio([1, 9, 0, 0]), small(7, 2, 2, 9, 0, 0))
    return _paced(system.snapshot())


@pytest.mark.parametrize("make", [fork_server, _split_and_simulated])
def test_the_page(make: Any) -> None:
    snapshot = make()

    def page(room: Workroom | None) -> str:
        plan = make_plan(snapshot, Policy(), room=room)
        times = schedule(snapshot, plan.prediction, room=room)
        risk = assess(snapshot, plan.prediction)
        return report_page(snapshot, plan.everything, plan, times, risk)

    assert page(Rooms(len(snapshot.mappings) // 4).room()) == page(None)


def test_what_is_simulated_in_time_is_told_where_there_are_parts() -> None:
    snapshot, rooms = _split_and_simulated(), Rooms(0)
    found = forecast(snapshot, scans=9, room=rooms.room())
    assert rooms.asked[-1][1] == "contents in huge pages, or simulated, go together"
    assert _told(snapshot, found) == _told(snapshot, forecast(snapshot, scans=9))


@pytest.mark.parametrize(
    "command",
    [
        "advise",
        "advise --json",
        "forecast --for 1h",
        "forecast --json --by process",
        "report --html",
    ],
)
def test_with_the_least_memory_that_is_taken_a_command_says_the_same(
    tmp_path: Path, command: str
) -> None:
    path, page = tmp_path / "workers.ksm", tmp_path / "page.html"
    write_snapshot(fork_server(), path)
    name, *options = command.split()
    arguments = [name, str(path), *options] + [str(page), "--force"] * ("--html" in options)
    whole = estimator(*arguments)
    shown = page.read_text() if page.exists() else whole.stdout
    page.unlink(missing_ok=True)
    parts = with_least_memory(*arguments)
    assert (parts.returncode, parts.stderr) == (whole.returncode, whole.stderr)
    assert parts.returncode == 0
    assert (page.read_text() if page.exists() else parts.stdout) == shown != ""

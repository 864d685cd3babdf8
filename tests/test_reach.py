"""Settings that reach a part of the saving in time, against all settings tried one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.advice.page_cost import PageCost
from estimator.advice.reach import Wish, reach
from estimator.advice.scan_time import scan_time
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import forecast
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.synthetic import System, small
from tests.systems import fork_server

SMALL = System("6.12", smart_scan=1)
SMALL.processes_with(*(small(*range(1, 40), *SMALL.unique(9)) for _ in range(3)))
SNAPSHOT = SMALL.snapshot()
FOUND = forecast(SNAPSHOT)
PAGES = FOUND.scans["pages_scanned"].diff().fillna(FOUND.scans["pages_scanned"]).tolist()


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([0.01, 0.5, 1.0]),
    st.floats(0.001, 10),
    st.floats(0.01, 1),
    st.integers(1, 100),
    st.floats(1e-6, 1e-2),
)
def test_no_setting_does_better(
    share: float, seconds: float, cpu_share: float, sleep: int, page_seconds: float
) -> None:
    cost = PageCost(page_seconds, "given")
    found = reach(FOUND, Wish(share, seconds, cpu_share), sleep, cost)

    def by_then(pages_to_scan: int) -> tuple[float, float]:
        each = [scan_time(n, pages_to_scan, sleep, cost) for n in PAGES[: found.full_scans]]
        took = sum(scan.seconds for scan in each) - sleep / 1000
        return took, sum(PAGES[: found.full_scans]) * cost.seconds / took

    tried = {n: by_then(n) for n in range(1, 160)}
    meets = [n for n, (took, cpu) in tried.items() if took <= seconds and cpu <= cpu_share]
    took, cpu = tried[found.pages_to_scan]
    assert [found.seconds, found.cpu_share] == pytest.approx([took, cpu])
    assert found.possible == bool(meets)
    assert found.sleep_millisecs == sleep
    if meets:
        assert found.pages_to_scan == min(meets)
    elif found.pages_to_scan > 1:
        assert cpu <= cpu_share * (1 + 1e-9)
        allowed = [took for took, cpu in tried.values() if cpu <= cpu_share]
        assert found.seconds <= min(allowed) * (1 + 1e-9)


def test_what_it_takes_at_least() -> None:
    cost = PageCost(1e-3, "given")
    found = reach(FOUND, Wish(0.9, 0.1, 0.5), 20, cost)
    pages = FOUND.scans["pages_scanned"].iloc[found.full_scans - 1]
    assert not found.possible
    assert found.least_cpu_share == pytest.approx(pages * 1e-3 / 0.1)


def test_a_sleep_of_nothing_is_the_kernels_default() -> None:
    found = reach(FOUND, Wish(0.9, 100.0, 0.5), 0, PageCost(1e-6, "given"))
    assert (found.sleep_millisecs, found.possible) == (20, True)


def test_nothing_to_reach() -> None:
    alone = System("6.12")
    alone.process(*small(*alone.unique(5)))
    cost = PageCost(1e-6, "given")
    with pytest.raises(CannotAnswerError, match="saves nothing"):
        reach(forecast(alone.snapshot()), Wish(0.9, 10, 1), 20, cost)
    with pytest.raises(CannotAnswerError, match="1 full scans"):
        reach(forecast(SNAPSHOT, scans=1), Wish(0.9, 10, 1), 20, cost)


def test_the_command(tmp_path: Path) -> None:
    made = fork_server()
    path = tmp_path / "server.ksm"
    write_snapshot(made, path)
    options = ("--reach", "90%", "--within", "10min", "--cpu", "20")
    told = json.loads(estimator("forecast", path, "--json", *options).stdout)
    assert told["reach"]["possible"]
    assert told["settings"]["pages_to_scan"] == told["reach"]["pages_to_scan"]
    assert told["marks"][1]["seconds"][1] <= told["reach"]["seconds"]
    text = estimator("forecast", path, *options).stdout
    assert f"echo {told['reach']['pages_to_scan']} > /sys/kernel/mm/ksm/pages_to_scan" in text
    text = estimator("forecast", path, "--reach", "90", "--within", "1ms").stdout
    assert "can't be done" in text
    for wrong, words in (
        (("--within", "1min"), "--within is for --reach"),
        (("--reach", "90%"), "--within"),
        (("--reach", "120%", "--within", "1min"), "no percentage"),
        ((*options, "--pages-to-scan", "9"), "finds pages_to_scan"),
        ((*options, "--advisor", "scan-time"), "neither"),
    ):
        done = estimator("forecast", path, *wrong)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr

"""Scan time, pages_to_scan, and the scan-time advisor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.advice.advisor import (
    AdvisorSettings,
    AdvisorState,
    advise_scan_time,
    advisor_course,
)
from estimator.advice.page_cost import PageCost
from estimator.advice.scan_time import scan_time
from estimator.advice.schedule import pages_at_rest, pages_to_scan_for

COST = PageCost(2e-6, "given")


def test_advisor_as_seen_on_a_real_kernel() -> None:
    """Target 2 s on 6.12.117; scans of 0.98, 1.61 and 4.66 s led to 410, 104 and 322."""
    settings = AdvisorSettings(target_scan_time=2)
    state = AdvisorState(pages_to_scan=500)
    course = []
    for scan_seconds, cpu_seconds in ((0.98, 0.12), (1.61, 0.39), (4.66, 0.6)):
        state = advise_scan_time(state, settings, scan_seconds, cpu_seconds)
        course.append(state.pages_to_scan)
    assert course == [410, 104, 322]


def test_advisor_keeps_to_its_limits() -> None:
    settings = AdvisorSettings(max_pages_to_scan=2000)
    slow = advise_scan_time(AdvisorState(1000), settings, scan_seconds=4000, cpu_seconds=40)
    assert slow.pages_to_scan == 2000
    busy = advise_scan_time(AdvisorState(1000), settings, scan_seconds=4000, cpu_seconds=3600)
    assert busy.pages_to_scan == 1000 // 90 * settings.max_cpu


def test_advisor_burns_cpu_on_a_small_set() -> None:
    """Its lower limit of 10 % of a CPU makes it scan far faster than the 200 s it aims at."""
    last = advisor_course(20_000, 20, COST, AdvisorSettings())[-1]
    assert last.seconds < 1


def test_the_default_of_100_pages_is_for_demonstrations() -> None:
    """64 GiB at 100 pages every 20 ms: nearly an hour asleep alone."""
    pages = 64 * 2**30 // 4096
    assert scan_time(pages, 100, 20, None).seconds == pytest.approx(3355, abs=1)
    assert scan_time(pages, 100, 20, None).cpu_share is None
    with_cost = scan_time(pages, 100, 20, COST)
    assert with_cost.cpu_share == pytest.approx(pages * 2e-6 / with_cost.seconds)


@given(
    st.integers(1, 20_000_000),
    st.floats(1, 1000),
    st.integers(1, 200),
    st.one_of(st.none(), st.floats(1e-7, 1e-5).map(lambda s: PageCost(s, "given"))),
)
def test_pages_to_scan_is_the_smallest_that_reaches_the_target(
    pages: int, target_seconds: float, sleep: int, cost: PageCost | None
) -> None:
    wanted = pages_to_scan_for(pages, target_seconds, sleep, cost)
    if wanted is None:
        assert scan_time(pages, pages + 1, sleep, cost).seconds > target_seconds
        return
    tolerance = 1e-9 * target_seconds
    assert scan_time(pages, wanted, sleep, cost).seconds <= target_seconds + tolerance
    if wanted > 1:
        slower = scan_time(pages, wanted - 1, sleep, cost)
        assert slower.seconds > target_seconds - tolerance


def test_smart_scan_visits_one_unmerged_page_in_nine() -> None:
    assert pages_at_rest(1000, 9000, smart_scan=True) == 2000
    assert pages_at_rest(1000, 9000, smart_scan=False) == 10_000

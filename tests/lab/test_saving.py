"""The physical saving: frames that the guest's own memory shows as free again."""

from __future__ import annotations

import pytest

from tests.lab.conftest import RunWorkload
from tests.lab.kernels import RECENT
from tests.lab.verdict import Verdict, judge
from tests.lab.workload import Workload
from tests.lab.workloads.savings import HUGE_PAGES, PROCESSES, WORKLOADS, ZERO_PAGES

pytestmark = pytest.mark.lab

# Pages that the guest has less than KSM gives back: page tables, and security blobs of the inodes
# that the report itself makes. It was 13 to 35 for savings of 6,700 to 15,900 pages with 20,000 to
# 72,000 rmap_items on 6.1, 6.12 and 7.3, so it does not grow with what KSM does.
OTHERS_PAGES = 64
MOST = 0.01  # of the saving: so much of it would be noticed if it were wrong

CASES = [
    pytest.param(workload, series, id=f"{workload.name}-{series}")
    for workload in WORKLOADS
    for series in (workload.series[0], workload.series[-1])
]


@pytest.mark.parametrize(("workload", "series"), CASES)
def test_physical_saving_is_what_the_guest_gets_back(
    workload: Workload, series: str, lab: RunWorkload
) -> None:
    verdict = judge(lab(workload, series))
    assert verdict.differences == {}
    predicted, given_back = verdict.net_pages
    assert predicted * MOST > OTHERS_PAGES
    assert abs(predicted - given_back) <= OTHERS_PAGES
    assert_relation(verdict, series)


def assert_relation(verdict: Verdict, series: str) -> None:
    """How the saving relates to what ksmd counts, different for each workload."""
    freed = verdict.prediction.physical["frames_freed"]
    sharing = verdict.prediction.counters["pages_sharing"]
    match verdict.workload.name:
        case "saving-duplicates":
            assert freed == sharing
        case "saving-forked":
            assert freed * 8 == sharing
        case "saving-huge-zeroes" if series in RECENT:
            assert freed == PROCESSES * HUGE_PAGES * ZERO_PAGES
            assert sharing == 0  # the split of a huge page maps the zero page, no counter says so
        case _:
            assert freed == sharing

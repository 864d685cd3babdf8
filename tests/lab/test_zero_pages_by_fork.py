"""Zero pages that ksmd placed and fork copied: counted as the kernel counts them, or does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.compare import counter_numbers, process_numbers, unequal
from tests.lab.conftest import again, lab_kernel
from tests.lab.truth import settle
from tests.lab.workload import Session, Workload, run_workload

pytestmark = pytest.mark.lab

PAGES = 200
CHILDREN = 3
LATE_PAGES = 40
WIPED_PAGES = 30
SCRIPT = f"""
    map data {PAGES + LATE_PAGES}
    fill data[:{PAGES}] zero
    map wiped {WIPED_PAGES}
    fill wiped zero
    advise wiped wipeonfork
    advise data mergeable
    advise wiped mergeable
    stop
    fork {CHILDREN}
    fill data[{PAGES}:] zero
    end
"""


@pytest.mark.parametrize(
    ("series", "counts_forks"), [("6.16", False), again("6.18", True), ("7.3", True)]
)
def test_the_counter_goes_on_from_where_it_is(
    series: str, counts_forks: bool, tmp_path: Path
) -> None:
    def merge_and_fork(session: Session) -> None:
        settle(session.guest, min_scans=4)
        session.go(0)

    ksm = {"use_zero_pages": 1, "smart_scan": 0}
    workload = Workload("zero-pages-by-fork", (SCRIPT,), ksm=ksm, before_dump=merge_and_fork)
    result = run_workload(workload, lab_kernel(series), tmp_path / "vmcore")
    snapshot = collect_core(result.vmcore, [result.vmlinux])
    assert snapshot.vmas["ksm_zero_pages"].sum() == (1 + CHILDREN) * PAGES + WIPED_PAGES
    prediction = predict(snapshot, Policy(scope="enabled"))
    assert unequal(counter_numbers(prediction, result.truth.after)) == {}
    of_each = process_numbers(prediction, result.truth.after, snapshot, {})
    placed = {what: pair for what, pair in of_each.items() if what.startswith("ksm_zero_pages")}
    assert unequal(placed) == {}
    of_parent = PAGES + WIPED_PAGES
    assert sorted(true for _, true in placed.values())[-CHILDREN:] == [of_parent + LATE_PAGES] * 3
    counted = of_parent * (1 + CHILDREN * counts_forks) + CHILDREN * LATE_PAGES
    assert result.truth.after.counter("ksm_zero_pages") == counted

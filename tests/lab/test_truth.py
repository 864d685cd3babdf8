"""The proof: for memory that holds still, the prediction equals the real ksmd to the page."""

from __future__ import annotations

import pytest

from estimator.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.compare import differences, vma_differences
from tests.lab.conftest import RunWorkload
from tests.lab.workload import Workload
from tests.lab.workloads import WORKLOADS, find

pytestmark = pytest.mark.lab

# Not about memory that is mergeable in the dump and then holds still.
OTHERWISE = ("opt-in-after", "writers")

# KSM pages without a stable node (see break_cow() and write_protect_page()): only smaps counts
# them, kernels from 6.7.
ORPHAN_PAGES = {("pinned-orphans", "6.12"): 6, ("huge-zero-orphans", "6.12"): 2}

# A fork copies the counters of the mm, which 6.1 does not clear: five children each count the
# pages of their parent for ever, beside their own. (what differs, by how many pages)
INHERITED = {("merged-then-forked", "6.1"): (10, 3), ("merged-then-joined", "6.1"): (10, 3)}

CASES = [
    pytest.param(workload, series, id=f"{workload.name}-{series}")
    for workload in WORKLOADS
    for series in workload.series
    if workload.name not in OTHERWISE
]


@pytest.mark.parametrize(("workload", "series"), CASES)
def test_prediction_equals_ksmd(workload: Workload, series: str, lab: RunWorkload) -> None:
    result = lab(workload, series)
    snapshot = collect_core(result.vmcore, [result.vmlinux])
    prediction = predict(snapshot, Policy(scope="enabled"))
    after = result.truth.after
    found = differences(prediction, after, snapshot)
    count, pages = INHERITED.get((workload.name, series), (0, 0))
    assert {
        what: (ours, true) for what, (ours, true) in found.items() if true - ours != pages
    } == {}
    assert len(found) == count
    excess = [true - ours for ours, true in vma_differences(prediction, after, snapshot).values()]
    assert all(more > 0 for more in excess)
    assert sum(excess) == ORPHAN_PAGES.get((workload.name, series), 0)


def test_what_if_all_opted_in_equals_ksmd_after_they_did(lab: RunWorkload) -> None:
    result = lab(find("opt-in-after", "6.12"), "6.12")
    snapshot = collect_core(result.vmcore, [result.vmlinux])
    assert predict(snapshot, Policy(scope="enabled")).counters["ksm_rmap_items"] == 0
    policy = Policy(scope="all", pids=tuple(result.truth.actors))
    prediction = predict(snapshot, policy)
    assert differences(prediction, result.truth.after, snapshot) == {}
    assert vma_differences(prediction, result.truth.after, snapshot) == {}

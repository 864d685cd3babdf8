"""The proof: for memory that holds still, the prediction equals the real ksmd to the page."""

from __future__ import annotations

import pytest

from estimator.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.compare import differences, vma_differences
from tests.lab.conftest import RunWorkload
from tests.lab.workload import Workload
from tests.lab.workloads import WORKLOADS

pytestmark = pytest.mark.lab

#: Their numbers are not those of VMAs that are mergeable in the dump; see the tests below.
OTHERWISE = ("opt-in-after", "writers")

#: Pages that stay KSM pages without being on a stable node: smaps counts them.
ORPHANS = ("pinned-orphans", "huge-zero-orphans")

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
    smart_scan = workload.ksm.get("smart_scan") == 1
    assert differences(prediction, result.truth.after, smart_scan=smart_scan) == {}
    if workload.name not in ORPHANS:
        assert vma_differences(prediction, result.truth.after) == {}

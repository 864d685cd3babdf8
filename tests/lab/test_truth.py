"""The proof: for memory that holds still, the prediction equals the real ksmd to the page."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import MappingFlag
from tests.lab.conftest import RunWorkload
from tests.lab.kernels import SERIES
from tests.lab.verdict import COUNTERS_INHERITED, FORKED_AFTER_MERGING, judge
from tests.lab.workload import Workload
from tests.lab.workloads import WORKLOADS, find

pytestmark = pytest.mark.lab

# Have tests of their own: here, in test_writers.py and in test_saving.py.
ELSEWHERE = ("opt-in-after", "writers")


def _kernels(number: int, workload: Workload) -> Iterator[str]:
    """The newest, and for every fourth one more in turn: `./scripts/proof` runs all on all."""
    kernels = [series for series in SERIES if workload.runs_on(series)]
    yield from kernels[:1]
    others = kernels[1:]
    if workload.numa_balancing:
        yield from others
    elif others and number % 4 == 1:
        yield others[number // 4 % len(others)]


PAIRS = [
    (workload, series)
    for number, workload in enumerate(WORKLOADS)
    if workload.name not in ELSEWHERE and not workload.name.startswith("saving-")
    for series in _kernels(number, workload)
]
PAIRS.sort(key=lambda pair: pair[0].guest_like(pair[1]))  # or another's saved guest takes the place
AGAIN = [("fork-server", "5.10"), *((f"numa-balancing-{n}", s) for n in (0, 1) for s in SERIES[1:])]
CASES = [
    pytest.param(
        workload,
        series,
        id=f"{workload.name}-{series}",
        marks=[pytest.mark.again] if (workload.name, series) in AGAIN else [],
    )
    for workload, series in PAIRS
]


@pytest.mark.parametrize(("workload", "series"), CASES)
def test_prediction_equals_ksmd(workload: Workload, series: str, lab: RunWorkload) -> None:
    verdict = judge(lab(workload, series))
    assert verdict.differences == {}
    hinted = int(np.count_nonzero(verdict.snapshot.mappings["flags"] & int(MappingFlag.PROT_NONE)))
    assert hinted > 1000 or not workload.numa_balancing
    children_count_more = workload.name in FORKED_AFTER_MERGING and series in COUNTERS_INHERITED
    assert any("children" in note for note in verdict.notes) == children_count_more


def test_what_if_all_opted_in_equals_ksmd_after_they_did(lab: RunWorkload) -> None:
    verdict = judge(lab(find("opt-in-after", "6.12"), "6.12"))
    enabled = predict(verdict.snapshot, Policy(scope="enabled"))
    assert enabled.counters["ksm_rmap_items"] == 0
    assert verdict.differences == {}
    vmas = verdict.prediction.vmas
    merged_in = set(vmas["name"][vmas["ksm_merging_pages"] > 0])
    assert {"[heap]", "[stack]"} <= merged_in
    assert any(name.startswith("/tmp/file") for name in merged_in)
    excluded = verdict.prediction.excluded
    assert "VM_SHARED" in set(excluded["excluded_by"])

"""Several looks at processes that write all the time: the pages that ksmd leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.collect import collect
from estimator.kernel.running import open_qemu
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.passes import collect_passes
from estimator.snapshot import open_snapshot, write_snapshot
from tests.lab.conftest import lab_kernel
from tests.lab.running import running
from tests.lab.truth import report, settle
from tests.lab.workloads import WORKLOADS

pytestmark = pytest.mark.lab

WRITERS = next(workload for workload in WORKLOADS if workload.name == "writers")
COUNTERS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")


@pytest.mark.parametrize("series", ["6.12", "6.1"])
def test_pages_that_change_are_volatile_to_ksmd(series: str, tmp_path: Path) -> None:
    kernel = lab_kernel(series)
    with running(WRITERS, kernel, tmp_path) as guest:
        target = open_qemu(str(guest.monitor), [kernel.vmlinux])
        once = collect(target)
        write_snapshot(collect_passes(lambda: collect(target), 3, 1.0), tmp_path / "writers.ksm")
        settle(guest.guest, min_scans=WRITERS.min_scans)
        truth = report(guest.guest)
    policy = Policy(scope="enabled")
    prediction = predict(open_snapshot(tmp_path / "writers.ksm"), policy)
    volatile = truth.counter("pages_volatile")
    assert volatile
    assert prediction.counters["pages_volatile"] == pytest.approx(volatile, rel=0.05)
    assert prediction.counters["pages_sharing"] == pytest.approx(
        truth.counter("pages_sharing"), rel=0.05
    )
    assert predict(once, policy).counters["pages_volatile"] < volatile // 2

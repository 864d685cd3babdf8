"""Several looks at processes that write all the time: the pages that ksmd leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.collect.passes import collect_passes
from estimator.kernel.collect import collect
from estimator.kernel.running import open_qemu
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.lab.conftest import again, lab_kernel, newest_and_oldest
from tests.lab.kernels import IN_FULL
from tests.lab.running import running
from tests.lab.truth import State, report, settle
from tests.lab.workloads import WORKLOADS

pytestmark = pytest.mark.lab

WRITERS = next(workload for workload in WORKLOADS if workload.name == "writers")
POLICY = Policy(scope="enabled")


@pytest.mark.parametrize("series", newest_and_oldest(IN_FULL))
def test_pages_that_change_are_volatile_to_ksmd(series: str, tmp_path: Path) -> None:
    kernel = lab_kernel(series)
    with running(WRITERS, kernel, tmp_path) as guest:
        target = open_qemu(str(guest.monitor), [kernel.vmlinux])
        once = collect(target, seed=0)
        write_snapshot(
            collect_passes(lambda: collect(target, seed=0), 3, 1.0), tmp_path / "writers.ksm"
        )
        settle(guest.guest, min_scans=WRITERS.min_scans)
        truth = report(guest.guest)
    check(open_snapshot(tmp_path / "writers.ksm"), truth)
    volatile = truth.counter("pages_volatile") or 0
    assert predict(once, POLICY).counters["pages_volatile"] < volatile // 2


@pytest.mark.parametrize("series", [IN_FULL[0], again(IN_FULL[-1])])
def test_so_they_are_to_who_looks_from_inside(series: str, tmp_path: Path) -> None:
    with running(WRITERS, lab_kernel(series), tmp_path, debian=True) as guest:
        command = "collect --live --symbols /symbols/vmlinux --passes 3 --interval 1"
        status, output = guest.estimator(f"{command} -o /tmp/writers.ksm")
        assert status == 0, output
        snapshot = open_snapshot(guest.fetch_snapshot("/tmp/writers.ksm", tmp_path))
        settle(guest.guest, min_scans=WRITERS.min_scans)
        truth = report(guest.guest)
    assert snapshot.info["passes"] == {"count": 3, "interval_seconds": 1.0}
    check(snapshot, truth)


def check(snapshot: Snapshot, truth: State) -> None:
    """The prediction is within 5 % of what ksmd has found."""
    prediction = predict(snapshot, POLICY)
    for name in ("pages_volatile", "pages_sharing"):
        assert truth.counter(name)
        assert prediction.counters[name] == pytest.approx(truth.counter(name), rel=0.05)

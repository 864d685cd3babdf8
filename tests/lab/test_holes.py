"""What ksmd looks up in vain, where it walks address by address: told, and seen in its CPU time."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.compare import counter_numbers, unequal
from tests.lab.conftest import lab_kernel
from tests.lab.truth import ksmd_ns, settle
from tests.lab.workload import Session, Workload, run_workload

pytestmark = pytest.mark.lab

HOLE_PAGES = 20_000_000
SCRIPT = f"""
    map hole {HOLE_PAGES} sparse
    fill hole[5] same 8
    fill hole[{HOLE_PAGES - 1}] same 8
    advise hole mergeable
"""
A_SCAN_NS = 100_000_000
"""Between a walk that jumps and one of all addresses, emulated: less than 10 ms, and 2 s."""


@pytest.mark.parametrize(("series", "skips"), [("6.16", False), ("6.18", True)])
def test_addresses_are_told_where_looking_them_up_takes_time(
    series: str, skips: bool, tmp_path: Path
) -> None:
    spent_ns: list[int] = []
    scans: list[int] = []

    def scan(session: Session) -> None:
        before_ns = ksmd_ns(session.guest)
        scans.append(settle(session.guest, min_scans=2, stable_scans=0)[-1]["full_scans"])
        spent_ns.append(ksmd_ns(session.guest) - before_ns)

    workload = Workload("holes", (SCRIPT,), after_dump=scan)
    result = run_workload(workload, lab_kernel(series), tmp_path / "vmcore")
    assert (spent_ns[0] > scans[0] * A_SCAN_NS) == (not skips)
    prediction = predict(collect_core(result.vmcore, [result.vmlinux]), Policy(scope="enabled"))
    assert unequal(counter_numbers(prediction, result.truth.after)) == {}
    told = [text for text in prediction.warnings if "GiB" in text]
    assert len(told) == (not skips)
    assert all(f"{HOLE_PAGES - 2:,} addresses (76 GiB)" in text for text in told)

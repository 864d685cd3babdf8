"""A chain of stable nodes that has come down to one node, and when ksmd does away with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.compare import counter_numbers, unequal
from tests.lab.conftest import again, lab_kernel
from tests.lab.truth import settle
from tests.lab.workload import Session, Workload, run_workload

pytestmark = pytest.mark.lab

FULL = 4
STAYS = f"""
    map data {FULL}
    fill data same 1
    advise data mergeable
"""
GOES = f"""{STAYS}
    stop
    unmap data
"""
SEARCHED = """
    map data 50
    fill data own 2
    advise data mergeable
"""


@pytest.mark.parametrize(
    ("series", "searched", "chains"),
    [
        ("6.1", True, 1),
        ("7.3", True, 0),
        again("5.10", True, 1),
        again("6.12", True, 0),
        again("6.1", False, 1),
        ("7.3", False, 1),
    ],
)
def test_a_chain_of_one_full_node(series: str, searched: bool, chains: int, tmp_path: Path) -> None:
    def merge_and_unmap(session: Session) -> None:
        settle(session.guest, min_scans=4)
        session.go(1)

    ksm = {"max_page_sharing": FULL} | ({} if series in ("5.10", "6.1") else {"smart_scan": 0})
    scripts = (STAYS, GOES, SEARCHED) if searched else (STAYS, GOES)
    workload = Workload("lone-dup", scripts, ksm=ksm, before_dump=merge_and_unmap)
    result = run_workload(workload, lab_kernel(series), tmp_path / "vmcore")
    snapshot = collect_core(result.vmcore, [result.vmlinux])
    nodes = snapshot.stable_nodes
    assert (nodes["chain_id"][nodes["live"]] >= 0).tolist() == [True]
    prediction = predict(snapshot, Policy(scope="enabled"))
    assert unequal(counter_numbers(prediction, result.truth.after)) == {}
    assert result.truth.after.counter("stable_node_chains") == chains

"""KSM pages that move to another NUMA node, and what ksmd does in the tree there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.compare import counter_numbers, unequal
from tests.lab.conftest import again, lab_kernel
from tests.lab.truth import settle
from tests.lab.workload import Session, Workload, run_workload

pytestmark = pytest.mark.lab

PAGES = 40


def moves(content: str) -> str:
    """Pages that merge on node 0, in pairs; one of each pair is left, and goes to node 1."""
    return f"""
        map data {PAGES}
        map more {PAGES}
        node data 0
        node more 0
        fill data {content}
        fill more {content}
        advise data mergeable
        advise more mergeable
        stop
        unmap more
        node data 1
    """


STAYS = f"""
    map data {2 * PAGES}
    node data 1
    fill data[:{PAGES}] list 1
    fill data[{PAGES}:] list 1
    advise data mergeable
"""


@pytest.mark.parametrize("series", ["7.3", again("6.12")])
@pytest.mark.parametrize(
    ("content", "shared", "sharing"),
    [
        ("list 1", PAGES, PAGES),  # has its like there
        ("list 2", 2 * PAGES, PAGES),  # the first ones there
    ],
)
def test_a_moved_page(series: str, content: str, shared: int, sharing: int, tmp_path: Path) -> None:
    def merge_and_move(session: Session) -> None:
        settle(session.guest, min_scans=4)
        session.go(0)

    ksm = {"merge_across_nodes": 0, "smart_scan": 0}
    workload = Workload(
        "moved", (moves(content), STAYS), ksm=ksm, nodes=2, before_dump=merge_and_move
    )
    result = run_workload(workload, lab_kernel(series), tmp_path / "vmcore")
    snapshot = collect_core(result.vmcore, [result.vmlinux])
    nodes = snapshot.stable_nodes
    node_of_page = snapshot.frames["node"].to_numpy()[nodes["frame_id"].to_numpy(np.int64)]
    assert (nodes["node"].to_numpy() != node_of_page).sum() == PAGES
    prediction = predict(snapshot, Policy(scope="enabled"))
    assert unequal(counter_numbers(prediction, result.truth.after)) == {}
    counted = [prediction.counters[name] for name in ("pages_shared", "pages_sharing")]
    assert counted == [shared, sharing]

"""Processes that come while ksmd runs: every counter of every full scan is as foretold.

The memory is the same in two guests. In the first all processes are there, KSM is off, and a dump
is taken. In the second they start one after the other, between full scans of ksmd.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from estimator.kernel.collect import collect_core
from estimator.ksm.arrivals import Arriving, patterns_of, table_of
from estimator.ksm.policy import Policy
from estimator.ksm.predict import ask, predict
from estimator.snapshot.snapshot import Snapshot
from tests.lab.conftest import again, lab_kernel
from tests.lab.truth import settle
from tests.lab.workload import WITHOUT_DAMON_STAT, Session, Workload, booted

pytestmark = pytest.mark.lab

HOUR_MILLISECONDS = 3_600_000
ALONE = """
    map data 700
    fill data[:200] list 1
    fill data[200:300] own 2
    fill data[300:620] same 9
    fill data[620:700] zero
    advise data mergeable
"""
SERVER = """
    map data 460
    fill data[400:460] zero
    fill data[:150] list 3
    fill data[150:300] list 4
    fill data[300:400] same 9
    advise data mergeable
    stop
    fork 2
    fill data[:50] own 5
    fill data[50:100] list 1
    end
"""
LATE = """
    map data 300
    fill data[:100] list 4
    fill data[100:300] list 1
    advise data mergeable
"""
SCANS_BEFORE = (13, 10, 6, 25)
"""Full scans after which the next comes. By should_skip_rmap_item() the pages of the first are
processed in scans 1, 2, 3, 4, 6, 9, 14, 23, 32 and so on, those of the second, which comes in scan
14, in 15, 16, 17, 19, 22, 27, 36 and so on: those that waited in the unstable tree never meet."""
NEVER_MEET_PAGES = 200


def guest_of(
    series: str, smart_scan: int, zero_pages: int
) -> contextlib.AbstractContextManager[Session]:
    ksm = {"sleep_millisecs": HOUR_MILLISECONDS, "use_zero_pages": zero_pages}
    if series != "6.1":
        ksm["smart_scan"] = smart_scan
    workload = Workload("arrivals", (), ksm=ksm, commands=(WITHOUT_DAMON_STAT,))
    return booted(workload, lab_kernel(series))


def arrive(session: Session, step: int) -> None:
    if step < 3:
        session.start((ALONE, ALONE, SERVER)[step])
        return
    session.go(2)  # the server forks
    session.start(LATE)


def dumped(
    series: str, smart_scan: int, zero_pages: int, path: Path
) -> tuple[Snapshot, np.ndarray]:
    """The memory with all there, and with which step each mm comes."""
    with guest_of(series, smart_scan, zero_pages) as session:
        for step in range(len(SCANS_BEFORE)):
            arrive(session, step)
        session.guest.dump(path)
    snapshot = collect_core(path, [lab_kernel(series).vmlinux], seed=0)
    path.unlink()
    last = len(SCANS_BEFORE) - 1
    steps = {pid: min(step, last) for step, pid in enumerate(session.actors)}
    group = [steps.get(pid, last) for pid in snapshot.processes["pid"]]
    return snapshot, np.array(group, np.int64)


@pytest.mark.parametrize(
    ("series", "smart_scan", "zero_pages"),
    [("7.3", 1, 1), again("6.12", 1, 1), ("6.1", 0, 0), again("6.16", 1, 1)],
)
def test_every_scan_while_processes_come(
    series: str, smart_scan: int, zero_pages: int, tmp_path: Path
) -> None:
    """The server's children map what it does by then: KSM pages, and its zero pages.

    6.16 does not count those.
    """
    snapshot, group = dumped(series, smart_scan, zero_pages, tmp_path / "vmcore")
    case = ask(snapshot, Policy(scope="enabled")).case
    ksmd = Arriving(case, patterns_of(case, group))
    rows, seen = [], []
    with guest_of(series, smart_scan, zero_pages) as session:
        for step, scans in enumerate(SCANS_BEFORE):
            arrive(session, step)
            seen += settle(session.guest, min_scans=scans, stable_scans=0)
            rows += [ksmd.scan(step + 1) for _ in range(scans)]
    foretold = table_of(rows)
    assert len(seen) == len(foretold) == sum(SCANS_BEFORE)
    for scan, counters in enumerate(seen):
        told = {name: int(foretold[name].iloc[scan]) for name in counters}
        assert told == counters, f"scan {scan + 1}"
    two = tuple(snapshot.processes["pid"].to_numpy()[group < 2].tolist())
    at_rest = predict(snapshot, Policy(scope="enabled", pids=two)).counters["pages_sharing"]
    there = seen[sum(SCANS_BEFORE[:2]) - 1]["pages_sharing"]
    assert there == at_rest - (NEVER_MEET_PAGES if smart_scan else 0)

"""What ksmd does besides saving, by the guest's own counters: splits, memory to undo it, CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.advice.side_effects import side_effects
from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.conftest import RunWorkload
from tests.lab.kernels import IN_FULL
from tests.lab.truth import KSM, State, report, settle
from tests.lab.workload import Session, Workload
from tests.lab.workloads.forks import outsider, shared_by
from tests.lab.workloads.huge import COPY, huge

pytestmark = pytest.mark.lab

# Pages that the shell of the guest maps more or less from one report to the next: 3 to 9 were seen.
OTHERS_PAGES = 32
SCRIPTS = (huge(then="fill data[9] same 7"), huge(), COPY, shared_by(8, 500), outsider(500))
KSMD_STAT = "cat $(grep -l '^ksmd$' /proc/[0-9]*/comm | sed 's/comm$/stat/')"
TICK_NS = 10_000_000  # of /proc: USER_HZ is 100


@pytest.mark.parametrize("series", IN_FULL)
def test_splits_memory_to_undo_it_and_cpu_time(
    series: str, lab: RunWorkload, tmp_path: Path
) -> None:
    """Each of eight processes that shared 500 pages by fork gets 500 of its own."""
    states: list[State] = []
    ksmd_ns: list[int] = []

    def note(session: Session) -> None:
        session.guest.run("echo 1 > /proc/sys/vm/stat_refresh")
        states.append(report(session.guest))

    def merge_and_undo(session: Session) -> None:
        note(session)
        settle(session.guest, min_scans=6)
        note(session)
        fields = session.guest.run(KSMD_STAT).rpartition(")")[2].split()
        ksmd_ns.append((int(fields[11]) + int(fields[12])) * TICK_NS)
        session.guest.dump(tmp_path / "merged")
        session.guest.run(f"echo 2 > {KSM}/run")
        note(session)

    workload = Workload("side-effects", SCRIPTS, min_scans=6, after_dump=merge_and_undo)
    result = lab(workload, series)
    snapshot = collect_core(result.vmcore, [result.vmlinux])
    found = side_effects(snapshot, predict(snapshot, Policy(scope="enabled")))
    before, merged, undone = states
    splits = merged.vmstat["thp_split_page"] - before.vmstat["thp_split_page"]
    assert found.split_huge_pages == splits == 1
    assert found.huge_pages == 2
    made = undone.vmstat["nr_anon_pages"] - merged.vmstat["nr_anon_pages"]
    assert abs(found.unmerge_bytes // 4096 - made) <= OTHERS_PAGES
    assert found.unmerge_bytes // 4096 == merged.counter("pages_sharing") == 4001
    assert found.freed_bytes == 501 * 4096

    ksm = collect_core(tmp_path / "merged", [result.vmlinux]).info["ksm"]
    (tmp_path / "merged").unlink()
    assert 0 <= ksm["ksmd_cpu_ns"] - ksmd_ns[0] < 2 * TICK_NS
    assert ksm["counters"].get("pages_scanned") == merged.counter("pages_scanned")

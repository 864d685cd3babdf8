"""The same data in memory that KSM can't merge, and in memory that it can.

What is predicted of the first as if it were the second is what ksmd then does with the second: all
counters, those of every process, and of every VMA.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimator.collect.seed import seed_of
from estimator.kernel.collect import collect, collect_core
from estimator.kernel.running import open_qemu
from estimator.ksm.as_if import as_if
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import FrameKind
from estimator.snapshot.snapshot import Snapshot, others_alone
from estimator.snapshot.store import open_snapshot
from tests.lab.compare import all_numbers, unequal
from tests.lab.conftest import again, lab_kernel
from tests.lab.running import running
from tests.lab.workload import LabResult, Workload, run_workload

pytestmark = pytest.mark.lab

SERIES, OLDEST = ("7.3", "6.1"), "5.10"
SETTINGS = {"/proc/sys/kernel/randomize_va_space": "0", "/proc/sys/vm/nr_hugepages": "24"}

REGIONS = (0x1000_0000_0000, 0x2000_0000_0000)  # from regions.c
ON_THE_LIST = """
    map seed 1
    fill seed own 9
    advise seed mergeable
"""
SHARED = """
    map data 600 {shared-memfd|anon}
    fill data[:300] list 1
    fill data[300:400] same 5
    fill data[400:450] zero
    fill data[450:] own 3
    advise data mergeable
    map more 50 {shared|anon}
    fill more list 1
    advise more mergeable
    fork 2
        read data
        read more
        map own 60 {shared|anon}
        fill own list 1
        advise own mergeable
    end
"""
HUGETLB = """
    map mine 1024 {hugetlb|anon}
    fill mine[:700] list 7
    fill mine[700:800] zero
    fill mine[800:] own 7
    advise mine mergeable
    map ours 262144 {shared-hugetlb|sparse}
    fill ours[:512] list 7
    fill ours[261632:] own 8
    advise ours mergeable
    fork 1
        read ours[:512]
        read ours[261632:]
    end
"""
HUGE = """
    map huge 2048
    advise huge {hugepage|nohugepage}
    fill huge[:900] list 2
    fill huge[900:1000] zero
    fill huge[1000:1500] same 2
    fill huge[1500:] own 2
    advise huge mergeable
    fork 1
        fill huge[1900:1920] list 2
    end
"""
FILE = """
    map file 100 {file|anon}
    {read file|fill file list 1}
    advise file mergeable
"""
CASES = {
    "shared": (SHARED, ("private",)),
    "hugetlb": (HUGETLB, ("private", "no-hugetlb")),
    "huge": (HUGE, ("no-thp",)),
    "file": (FILE, ("no-file",)),
}


def chosen(script: str, choice: int) -> str:
    """``script`` with the first or second of each {one|other}."""
    parts = script.replace("}", "{").split("{")
    parts[1::2] = [part.split("|")[choice] for part in parts[1::2]]
    return ON_THE_LIST + "".join(parts)


def run(script: str, choice: int, series: str, vmcore: Path) -> LabResult:
    """Two processes that execute the ``chosen`` script."""
    scripts = (chosen(script, choice),) * 2
    workload = Workload("as-if", scripts, memory_mib=384, settings=SETTINGS)
    return run_workload(workload, lab_kernel(series), vmcore)


def opted_in(snapshot: Snapshot, before: Snapshot) -> Snapshot:
    """With madvise(MADV_MERGEABLE), which the scripts call, heard in VMAs that are open now."""
    was_open = before.vmas["compatible"] & before.vmas["has_anon_vma"]
    opened = snapshot.vmas["compatible"] & snapshot.vmas["has_anon_vma"] & ~was_open
    regions = before.vmas["start"].between(*REGIONS)
    mergeable = snapshot.vmas["mergeable"] | (opened & regions)
    return replace(snapshot, vmas=snapshot.vmas.assign(mergeable=mergeable))


def with_pids_of(other: LabResult, mine: LabResult, snapshot: Snapshot) -> Snapshot:
    """With the pids that the same processes, which start in the same order, have there."""
    mine_pids, other_pids = (
        sorted(p["pid"] for p in each.truth.before.processes if p["comm"] == "actor")
        for each in (mine, other)
    )
    pids = dict(zip(mine_pids, other_pids, strict=True))
    return replace(
        snapshot, processes=snapshot.processes.assign(pid=snapshot.processes["pid"].replace(pids))
    )


@pytest.mark.parametrize(
    ("case", "series"),
    [
        *product(CASES, SERIES[:1]),
        *(again(case, SERIES[1]) for case in CASES),
        ("shared", OLDEST),
        again("hugetlb", OLDEST),
    ],
)
def test_as_if_it_were_what_the_other_guest_has(case: str, series: str, tmp_path: Path) -> None:
    script, what = CASES[case]
    mine = run(script, 0, series, tmp_path / "vmcore")
    found = collect_core(mine.vmcore, [mine.vmlinux], contents="all,file", seed=0)
    plain = collect_core(mine.vmcore, [mine.vmlinux], seed=0)
    mine.vmcore.unlink()
    other = run(script, 1, series, tmp_path / "vmcore")
    other.vmcore.unlink()

    enabled = Policy(scope="enabled")
    assert not unequal(all_numbers(predict(found, enabled), mine.truth.after, found))
    for table in ("processes", "vmas", "mappings", "frames", "stable_nodes"):
        assert getattr(found, table).equals(getattr(plain, table)), table
    question = opted_in(as_if(found, what), found)
    question = with_pids_of(other, mine, question)
    prediction = predict(question, enabled)
    numbers = all_numbers(prediction, other.truth.after, question)
    assert not unequal(numbers)
    assert prediction.counters["pages_sharing"] >= 100
    assert found.other_frames is not None
    unread = found.other_frames["unknown"].to_numpy() != 0
    assert not unread.any()
    kinds = np.unique(found.other_frames["kind"])
    assert (FrameKind.HUGETLB in kinds) == (case == "hugetlb")


def of_actors(snapshot: Snapshot) -> pd.DataFrame:
    """What the scripts map of other than anonymous memory: pid, address, frame, content, kind."""
    alone = others_alone(snapshot)
    assert alone is not None
    rows = alone.mappings.join(alone.vmas[["mm_id", "start"]], on="vma_id")
    rows = rows.join(alone.processes[["pid", "comm"]], on="mm_id")
    rows = rows.join(alone.frames[["pfn", "hash", "kind"]], on="frame_id")
    rows["address"] = rows["start"] + rows["page_index"].astype("uint64") * 4096
    columns = ["pid", "address", "pfn", "hash", "kind"]
    found = rows.loc[rows["comm"] == "actor", columns]
    return found.sort_values(["pid", "address"]).reset_index(drop=True)


def test_four_ways_of_reading_give_one_answer(tmp_path: Path) -> None:
    kernel = lab_kernel("6.12")
    scripts = tuple(chosen(script, 0) for script in (SHARED, HUGETLB, HUGE))
    workload = Workload("as-if", scripts, settings=SETTINGS)
    found: dict[str, Snapshot] = {}
    with running(workload, kernel, tmp_path, debian=True) as guest:
        for way, more in (
            ("live", "--symbols /symbols/vmlinux"),
            ("procfs", "--like /tmp/live.ksm"),
        ):
            name = f"/tmp/{way}.ksm"
            status, output = guest.estimator(f"collect --{way} {more} --contents all -o {name}")
            assert status == 0, output
            (tmp_path / way).mkdir()
            found[way] = open_snapshot(guest.fetch_snapshot(name, tmp_path / way))
        seed = seed_of(tmp_path / "live")
        with open_qemu(str(guest.monitor), [kernel.vmlinux]) as target:
            found["qemu"] = collect(target, contents="all", seed=seed)
        guest.guest.dump(tmp_path / "vmcore")
    vmcore = tmp_path / "vmcore"
    found["core"] = collect_core(vmcore, [kernel.vmlinux], contents="all", seed=seed)
    vmcore.unlink()
    expected = of_actors(found["core"])
    assert expected["kind"].value_counts()[FrameKind.HUGETLB] == 2 * (1024 + 1024)
    assert expected["kind"].value_counts()[FrameKind.SHMEM] > 3 * 650
    assert expected["hash"].notna().all()
    answers = {}
    for way, snapshot in found.items():
        pd.testing.assert_frame_equal(of_actors(snapshot), expected, obj=way)
        read = as_if(snapshot, ["private", "no-hugetlb", "no-thp"])
        answer = predict(read, Policy(comms=("actor",)))
        answers[way] = (answer.counters, answer.physical["frames_freed"])
    assert answers["core"][1] > 1000
    assert all(answer == answers["core"] for answer in answers.values()), answers

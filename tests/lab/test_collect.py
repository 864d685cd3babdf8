"""The way from a dump to an answer, as a user goes it: files, modes, JSON, drgn script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import estimator
from estimator.kernel.collect import collect_core
from estimator.snapshot.schema import SCHEMAS
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.lab.conftest import again, lab_kernel
from tests.lab.kernels import IN_FULL
from tests.lab.workload import LabResult, run_workload
from tests.lab.workloads.fork_server import WORKLOADS

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).parents[2]
COUNTERS = {
    *("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "ksm_zero_pages"),
    *("stable_node_chains", "stable_node_dups", "ksm_rmap_items", "general_profit"),
}


@pytest.fixture(scope="module", params=[IN_FULL[0], *map(again, IN_FULL[1:])])
def dumped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabResult]:
    workload = next(w for w in WORKLOADS if request.param in w.series)
    directory = tmp_path_factory.mktemp("dump")
    yield run_workload(workload, lab_kernel(request.param), directory / "vmcore")
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def snapshot(dumped: LabResult) -> Snapshot:
    return collect_core(dumped.vmcore, [dumped.vmlinux], seed=0)


def same(left: Snapshot, right: Snapshot) -> None:
    for name in ("processes", "vmas", "mappings", "frames", "stable_nodes", "stable_items"):
        pd.testing.assert_frame_equal(
            getattr(left, name), getattr(right, name), check_dtype=False, obj=name
        )


def seed_file(directory: Path) -> Path:
    path = directory / "seed"
    path.write_text("0")
    path.chmod(0o600)
    return path


def test_command_makes_the_snapshot_that_the_function_makes(
    dumped: LabResult, snapshot: Snapshot, tmp_path: Path
) -> None:
    out = tmp_path / "out.ksm"
    command = [sys.executable, "-m", "estimator", "collect", "--core", str(dumped.vmcore)]
    command += ["--seed-file", str(seed_file(tmp_path))]
    subprocess.run([*command, "--symbols", str(dumped.vmlinux), "-o", str(out)], check=True)
    assert {path.name for path in out.iterdir()} == {
        "snapshot.json",
        *(f"{name}.parquet" for name in SCHEMAS),
    }
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    same(estimator.open_snapshot(out), snapshot)


def test_snapshot_survives_writing_and_reading(snapshot: Snapshot, tmp_path: Path) -> None:
    write_snapshot(snapshot, tmp_path / "a.ksm")
    same(estimator.open_snapshot(tmp_path / "a.ksm"), snapshot)


def test_drgn_script_makes_the_same_snapshot(
    dumped: LabResult, snapshot: Snapshot, tmp_path: Path
) -> None:
    drgn = Path(sys.executable).with_name("drgn")
    script = REPOSITORY / "scripts" / "ksm_snapshot.py"
    first, out = tmp_path / "first.ksm", tmp_path / "out.ksm"
    write_snapshot(snapshot, first)
    inside = ["-c", str(dumped.vmcore), "-s", str(dumped.vmlinux)]
    subprocess.run([drgn, *inside, script, out, first], check=True)
    same(estimator.open_snapshot(out), snapshot)


def test_the_number_of_workers_changes_nothing(
    dumped: LabResult, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workers in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=workers: range(n))
        same(collect_core(dumped.vmcore, [dumped.vmlinux], seed=0), snapshot)


def test_json_has_the_promised_fields(dumped: LabResult, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "estimator", "run", "--core", str(dumped.vmcore)]
    command += ["--symbols", str(dumped.vmlinux), "--scope", "enabled", "--json"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    answer = json.loads(result.stdout)
    assert answer["kernel"]["release"] == dumped.kernel.release
    assert {"policy", "coverage", "warnings"} <= set(answer)
    assert set(answer["counters"]) >= COUNTERS
    assert {"frames_before", "frames_after", "bytes_saved", "net_bytes_saved"} <= set(
        answer["physical"]
    )
    assert {"pid", "comm", "cgroup", "ksm_rmap_items", "ksm_merging_pages"} <= set(
        answer["processes"][0]
    )
    assert {"pid", "start", "end", "name", "ksm_rmap_items", "ksm_merging_pages"} <= set(
        answer["vmas"][0]
    )
    numbers = [*answer["counters"].values(), *answer["physical"].values()]
    assert all(type(number) is int for number in numbers)
    assert answer["counters"]["pages_shared"] == dumped.truth.after.counter("pages_shared")


def test_mappings_are_what_smaps_says(dumped: LabResult, snapshot: Snapshot) -> None:
    """Anonymous, AnonHugePages and Swap of every VMA of the processes that hold still."""
    vmas = snapshot.vmas
    pages = np.bincount(snapshot.mappings["vma_id"], minlength=len(vmas))
    pid = snapshot.processes["pid"].to_numpy()[vmas["mm_id"]]
    found = {
        key: (int(n), int(swap))
        for *key_parts, n, swap in zip(
            pid, vmas["start"], vmas["end"], pages, vmas["swap_pages"], strict=True
        )
        for key in [tuple(map(int, key_parts))]
    }
    frozen = [p for p in dumped.truth.before.processes if p["state"] == "T"]
    assert len(frozen) >= 12
    for process in frozen:
        for vma in process["vmas"]:
            key = (process["pid"], vma["start"], vma["end"])
            expected = (vma["anonymous_kb"] // 4, vma["swap_kb"] // 4)
            assert found.get(key, (0, 0)) == expected, (key, vma["name"])
            row = vmas[(pid == key[0]) & (vmas["start"] == key[1])]
            if vma["name"].startswith("/") or vma["name"] in ("[heap]", "[stack]"):
                assert row["name"].item() == vma["name"]


def test_every_process_of_the_guest_is_there(dumped: LabResult, snapshot: Snapshot) -> None:
    stopped = {p["pid"]: p for p in dumped.truth.before.processes if p["state"] == "T"}
    rows = snapshot.processes.set_index("pid")
    assert set(stopped) <= set(rows.index)
    for pid, process in stopped.items():
        assert rows.loc[pid, "comm"] == process["comm"]
    workers = rows[rows["comm"] == "worker"]
    assert workers["scan_order"].is_monotonic_increasing
    assert (workers["scan_order"] >= 0).all()


@pytest.mark.parametrize("after_seconds", [0.3, 0.6, 0.9, 1.2, 1.6, 2.0])
def test_interrupted_at_any_moment(dumped: LabResult, tmp_path: Path, after_seconds: float) -> None:
    """Ctrl-C leaves no half snapshot and no child; what is there is complete."""
    command = [sys.executable, "-m", "estimator", "collect", "--core", str(dumped.vmcore)]
    command += ["--symbols", str(dumped.vmlinux), "-o", str(tmp_path / "out.ksm")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(after_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    code = process.wait(300)
    with pytest.raises(ProcessLookupError):  # nobody is left of its process group
        os.killpg(process.pid, 0)
    assert code in (0, 130, -signal.SIGINT)  # the last: before or behind our own code
    names = [path.name for path in tmp_path.iterdir()]
    assert names in ([], ["out.ksm"])
    if names:
        estimator.open_snapshot(tmp_path / "out.ksm")

"""A guest whose processes fork, exec, exit, map and unmap while it is read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest
from xxhash import xxh3_64_intdigest

from estimator.kernel.collect import collect
from estimator.kernel.running import open_qemu
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.conftest import lab_kernel, newest_and_oldest
from tests.lab.kernels import IN_FULL
from tests.lab.running import running
from tests.lab.test_replaced_words import check_rows
from tests.lab.workload import Workload

pytestmark = pytest.mark.lab

COLLECTIONS = 20
SECONDS = 300  # no bound on speed: a look that never gives up on what moves is one
COMMS = {"frozen", "churn", "busybox", "true", "sh", "init"}
TEMPLATES = {xxh3_64_intdigest(bytes([ord("a") + i]) * 4096, 0) for i in range(16)}
BASE = 0x2000_0000_0000
FROZEN = Workload("frozen", ("comm frozen\nmap data 3000\nfill data own 1\nfork 2\nend",))

LIVE_COLLECTIONS = int(os.environ.get("LIVE_COLLECTIONS", "8"))  # each takes seconds, emulated
MOST_GROWTH = 0.05  # from half of the way to its end
FROM_INSIDE = f"""
import json, pathlib
from estimator.collect.memory_room import own_bytes
from estimator.kernel.collect import collect
from estimator.kernel.running import open_live
from estimator.snapshot.store import write_snapshot
target = open_live()
own = []
for number in range({LIVE_COLLECTIONS}):
    write_snapshot(collect(target, seed=0), pathlib.Path(f"/tmp/looks/{{number}}.ksm"))
    own.append(own_bytes())
print(json.dumps(own))
"""


@pytest.mark.parametrize("series", newest_and_oldest(IN_FULL))
def test_what_moves_is_no_harm_to_what_holds_still(series: str, tmp_path: Path) -> None:
    kernel = lab_kernel(series)
    with running(FROZEN, kernel, tmp_path, programs=["churn"]) as guest:
        target = open_qemu(str(guest.monitor), [kernel.vmlinux])
        still = frozen(collect(target, seed=0))
        guest.guest.run("churn 4 & ")
        moved = 0
        for _ in range(COLLECTIONS):
            started = time.monotonic()
            snapshot = collect(target, seed=0)
            assert time.monotonic() - started < SECONDS
            check_rows(snapshot)
            pd.testing.assert_frame_equal(frozen(snapshot), still)
            owned = snapshot.processes["pid"] >= 0  # not: an mm on ksmd's list without its task
            assert set(snapshot.processes["comm"][owned]) <= COMMS
            check_contents(snapshot)
            moved += snapshot.info["unknown"]["changed_pages"]
            assert snapshot.info["unknown"]["changed_pages"] < len(snapshot.mappings)
        assert moved > 0


def test_looks_from_inside_see_no_harm(tmp_path: Path) -> None:
    """By one process of the guest, which must not grow; churn has one of two processors."""
    with running(FROZEN, lab_kernel("7.3"), tmp_path, programs=["churn"], debian=True) as guest:
        (tmp_path / "looks").mkdir()
        guest.guest.run("mkdir /tmp/looks; churn 1 & ")
        guest.guest.write_file("/tmp/looks.py", FROM_INSIDE)
        status, output = guest.python("/tmp/looks.py", timeout_seconds=100 * LIVE_COLLECTIONS)
        assert status == 0, output
        guest.fetch_snapshot("/tmp/looks", tmp_path / "looks")
    own = json.loads(output.splitlines()[-1])  # after what is shown of the progress
    assert len(own) == LIVE_COLLECTIONS
    assert own[-1] <= (1 + MOST_GROWTH) * own[len(own) // 2]
    still, moved = None, 0
    for number in range(LIVE_COLLECTIONS):
        snapshot = open_snapshot(tmp_path / "looks" / f"{number}.ksm")
        check_rows(snapshot)
        check_contents(snapshot)
        still = frozen(snapshot) if still is None else still
        assert len(still) > 3000
        pd.testing.assert_frame_equal(frozen(snapshot), still)
        assert "churn" in set(snapshot.processes["comm"])
        moved += snapshot.info["unknown"]["vmas"] + snapshot.info["unknown"]["changed_pages"]
    assert moved > 0


def frozen(snapshot: Snapshot) -> pd.DataFrame:
    """Process, address, frame and hash of every page of the frozen processes."""
    rows = snapshot.mappings.join(snapshot.vmas[["mm_id", "start"]], on="vma_id")
    rows = rows.join(snapshot.processes[["pid", "comm"]], on="mm_id")
    rows = rows[rows["comm"] == "frozen"]
    rows = rows.join(snapshot.frames[["pfn", "hash"]], on="frame_id")
    rows = rows.sort_values(["pid", "start", "page_index"])
    return rows[["pid", "start", "page_index", "pfn", "hash"]].reset_index(drop=True)


def check_contents(snapshot: Snapshot) -> None:
    """What the moving processes have mapped is theirs: all but pages in the middle of a change."""
    vmas = snapshot.vmas[(snapshot.vmas["start"] >= BASE) & (snapshot.vmas["end"] < 2 * BASE)]
    rows = snapshot.mappings[snapshot.mappings["vma_id"].isin(vmas["vma_id"])]
    frames = snapshot.frames.iloc[rows["frame_id"].unique()]
    known = frames[frames["hash"].notna()]
    odd = known[~known["hash"].isin(TEMPLATES) & ((known["flags"] & 1) == 0)]
    assert len(odd) <= 8 + len(known) // 100

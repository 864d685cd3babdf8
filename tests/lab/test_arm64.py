"""arm64, emulated: what ksmd does there is predicted, from dumps, over QMP, --live and --procfs.

A few workloads, on pages of 4, 16 and 64 KiB; all on all kernels: ``./scripts/proof --arch arm64``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from estimator.collect.further_hashes import Wanted
from estimator.collect.load import Pace
from estimator.kernel.collect import collect, collect_core
from estimator.kernel.running import open_qemu
from estimator.kernel.symbols import OWN
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.as_kdump import as_kdump
from tests.lab.compare import counter_numbers, process_numbers, unequal
from tests.lab.conftest import RunWorkload, again, lab_kernel
from tests.lab.dumps import WORKLOAD
from tests.lab.running import running
from tests.lab.truth import report, settle
from tests.lab.verdict import judge
from tests.lab.workloads import find
from tests.small_pieces import small_pieces

pytestmark = pytest.mark.lab

BUILT = "6.12-arm64-64k"  # from source: skipped where it was not built before
KERNELS = ("6.12-arm64", "6.12-arm64-16k", BUILT)
PAGE_BYTES = dict(zip(KERNELS, (4096, 16384, 65536), strict=True))


@pytest.mark.parametrize(
    ("name", "series"),
    [
        *((name, series) for name in ("prot-none", "huge-forked-zeroes") for series in KERNELS[:2]),
        ("prot-none", BUILT),
        ("tagged", BUILT),
        ("tagged", "6.12-arm64-16k"),
        ("merged-full", "7.2-arm64"),
    ],
)
def test_prediction_equals_ksmd(name: str, series: str, lab: RunWorkload) -> None:
    verdict = judge(lab(find(name, series), series))
    assert verdict.differences == {}
    assert verdict.compared > 40
    assert verdict.page_bytes == PAGE_BYTES.get(series, 4096)


def test_use_zero_pages_does_nothing_where_the_zero_page_is_flagged_as_tagged(
    tmp_path: Path,
) -> None:
    kernel = lab_kernel("5.10-arm64")
    with running(find("tagged-use-zero", "5.10-arm64"), kernel, tmp_path, debian=True) as system:
        status, output = system.estimator("collect --procfs -o /tmp/procfs.ksm")
        assert status == 0, output
        (tmp_path / "procfs").mkdir(mode=0o700)
        system.fetch_snapshot("/tmp/procfs.ksm", tmp_path / "procfs")
        system.guest.dump(tmp_path / "core")
        settle(system.guest, min_scans=4)
        truth = report(system.guest)
    core = collect_core(tmp_path / "core", [kernel.vmlinux])
    for look in (core, open_snapshot(tmp_path / "procfs")):
        assert look.info["zero_page_tagged"]
        prediction = predict(look, Policy(scope="enabled"))
        assert prediction.counters["pages_sharing"] > 100
        assert unequal(counter_numbers(prediction, truth)) == {}


class Counted(Pace):
    """No limit; ``bytes``: how many were read."""

    bytes = 0

    def __call__(self, read_bytes: int) -> None:
        self.bytes += read_bytes
        super().__call__(read_bytes)


@pytest.mark.parametrize("series", [again(KERNELS[0]), *KERNELS[1:]])
def test_one_moment_is_the_same_however_it_is_read(series: str, tmp_path: Path) -> None:
    """A dump with debug symbols and with the kernel's own, that as a kdump file, QEMU's monitor,
    /proc and /proc/kcore in the guest; what is said of the last one is what ksmd then does.
    """
    kernel = lab_kernel(series)
    with running(WORKLOAD, kernel, tmp_path, debian=True) as system:
        for way, more in (("procfs", ""), ("live", "--like /tmp/procfs.ksm")):
            status, output = system.estimator(f"collect --{way} --near {more} -o /tmp/{way}.ksm")
            assert status == 0, output
            (tmp_path / way).mkdir(mode=0o700)
            system.fetch_snapshot(f"/tmp/{way}.ksm", tmp_path / way)
        inside = {way: open_snapshot(tmp_path / way) for way in ("procfs", "live")}
        system.guest.dump(tmp_path / "core")
        seed, near = inside["procfs"].info["hash"]["seed"], Wanted(near=True)
        with open_qemu(str(system.monitor), [OWN]) as target:
            read = Counted(None)
            monitor = collect(target, seed=seed, wanted=near, pace=read)
        assert read.bytes >= len(monitor.frames) * PAGE_BYTES[series]  # what --rate limits
        settle(system.guest, min_scans=4)
        truth = report(system.guest)
    as_kdump(tmp_path / "core", tmp_path / "kdump", kernel.machine, PAGE_BYTES[series])
    with small_pieces():
        small = collect_core(tmp_path / "core", [OWN], seed=seed)
    looks = {
        "vmlinux": collect_core(tmp_path / "core", [kernel.vmlinux], seed=seed, wanted=near),
        "own": collect_core(tmp_path / "core", [OWN], seed=seed),
        "kdump": collect_core(tmp_path / "kdump", [OWN], seed=seed),
        "monitor": monitor,
        **inside,
    }
    for table in ("mappings", "frames"):
        for other in (looks["kdump"], small):
            assert getattr(other, table).equals(getattr(looks["own"], table))
    assert looks["live"].info["symbols"] == "BTF"
    assert {look.info["kernel"]["page_size"] for look in looks.values()} == {PAGE_BYTES[series]}
    found = {name: _of_actors(look).counters for name, look in looks.items()}
    first = found["vmlinux"]
    assert first["pages_sharing"] > 6000
    assert found == dict.fromkeys(looks, first)
    hashes = _hashes_of_actors(looks["vmlinux"])
    assert (hashes["no_address_hash"] != hashes["hash"]).any()
    for name in ("monitor", *inside):
        pd.testing.assert_frame_equal(_hashes_of_actors(looks[name]), hashes)
    live = looks["live"]
    prediction = predict(live, Policy(scope="enabled"))
    numbers = counter_numbers(prediction, truth) | process_numbers(prediction, truth, live, {})
    assert unequal(numbers) == {}


def _is_actor(snapshot: Snapshot) -> npt.NDArray[np.bool_]:
    """Which rows of ``processes`` are the workload's: others came and went between the looks."""
    comms = snapshot.processes["comm"].isin(["plain", "keeper", "worker"])
    return comms.to_numpy(np.bool_)


def _hashes_of_actors(snapshot: Snapshot) -> pd.DataFrame:
    """All three hashes of their frames, by PFN."""
    mm = snapshot.vmas["mm_id"].to_numpy()[snapshot.mappings["vma_id"].to_numpy()]
    frames = snapshot.mappings["frame_id"][_is_actor(snapshot)[mm]].unique()
    columns = ["pfn", "hash", "near_hash", "no_address_hash"]
    return snapshot.frames[columns].iloc[frames].set_index("pfn").sort_index()


def _of_actors(snapshot: Snapshot) -> Prediction:
    pids = tuple(snapshot.processes["pid"][_is_actor(snapshot)].tolist())
    return predict(snapshot, Policy(scope="all", pids=pids))

"""Pages that are equal but for a word, in a piece, in groups; and between siblings: as written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from estimator.advice.alike import Alike, alike
from estimator.collect.further_hashes import Wanted
from estimator.kernel.collect import collect, collect_core
from estimator.kernel.running import open_qemu
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.conftest import again, lab_kernel
from tests.lab.running import Running, running
from tests.lab.workload import Workload

pytestmark = pytest.mark.lab

SERIES, OLDEST = "6.12", "5.10"
PAGE, KIB = 4096, 1024
FIRST, LAST = 0x1000_0000_0000, 0x2000_0000_0000  # where regions lie
PAIR = """
    map end 32
    fill end end 1
    map address 16
    fill address address 2
    map piece 8
    fill piece piece 3
    map group 64
    fill group list 4
    map shifted 65
    fill shifted[{}] list 5
"""
FAMILY = """
    map base 4
    fill base own
    fork 2
        map same 40
        fill same list 9
    end
"""
SCRIPTS = (PAIR.format("0:64"), PAIR.format("1:65"), FAMILY)
WORKLOAD = Workload("alike", SCRIPTS, memory_mib=1024)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("alike")
    with running(WORKLOAD, lab_kernel(SERIES), directory, debian=True) as guest:
        yield guest


@pytest.fixture(scope="module", params=["core", again("live"), "procfs", "qemu"])
def snapshot(
    request: pytest.FixtureRequest, system: Running, tmp_path_factory: pytest.TempPathFactory
) -> Snapshot:
    directory: Path = tmp_path_factory.mktemp(request.param)
    symbols, wanted = [system.guest.kernel.vmlinux], Wanted(pieces=True, near=True)
    if request.param == "qemu":
        with open_qemu(str(system.monitor), symbols) as target:
            return collect(target, seed=5, wanted=wanted)
    if request.param == "core":
        system.guest.dump(directory / "core")
        found = collect_core(directory / "core", symbols, seed=5, wanted=wanted)
        (directory / "core").unlink()
        return found
    path = f"/tmp/{request.param}.ksm"
    how = "--live --symbols /symbols/vmlinux" if request.param == "live" else "--procfs"
    status, output = system.estimator(f"collect {how} --pieces --near -o {path}")
    assert status == 0, output
    return open_snapshot(system.fetch_snapshot(path, directory))


def test_the_oldest_kernel_read_while_it_runs(tmp_path: Path) -> None:
    """Inside through /proc/kcore and outside through QEMU's monitor: the dump's hashes."""
    kernel, near = lab_kernel(OLDEST), Wanted(near=True)
    with running(WORKLOAD, kernel, tmp_path, debian=True) as system:
        command = "collect --live --near --symbols /symbols/vmlinux -o /tmp/live.ksm"
        status, output = system.estimator(command)
        assert status == 0, output
        (tmp_path / "live.ksm").mkdir(mode=0o700)
        live = open_snapshot(system.fetch_snapshot("/tmp/live.ksm", tmp_path / "live.ksm"))
        seed = live.info["hash"]["seed"]
        with open_qemu(str(system.monitor), [kernel.vmlinux]) as target:
            monitor = collect(target, seed=seed, wanted=near)
        system.guest.dump(tmp_path / "core")
    dump = collect_core(tmp_path / "core", [kernel.vmlinux], seed=seed, wanted=near)
    expected = hashes_of_regions(dump)
    assert (expected["no_address_hash"] != expected["hash"]).sum() >= 2 * 16
    for found in (live, monitor):
        pd.testing.assert_frame_equal(hashes_of_regions(found), expected)


def hashes_of_regions(snapshot: Snapshot) -> pd.DataFrame:
    """All three hashes of what is mapped there, by pid and address."""
    rows = snapshot.mappings.join(snapshot.vmas[["mm_id", "start"]], on="vma_id")
    rows = rows[rows["start"].between(FIRST, LAST)].join(snapshot.processes["pid"], on="mm_id")
    columns = ["hash", "near_hash", "no_address_hash"]
    rows = rows.join(snapshot.frames[columns], on="frame_id")
    return rows.set_index(["pid", "start", "page_index"])[columns].sort_index()


def of_regions(snapshot: Snapshot) -> Alike:
    """What is said of the workload's regions alone: the others are shut out of merging."""
    start = snapshot.vmas["start"].to_numpy()
    ours = (start >= FIRST) & (start < LAST)
    reason = pd.array([None if our else "not ours" for our in ours.tolist()], "string")
    vmas = snapshot.vmas.assign(compatible=ours, excluded_by=reason)
    snapshot = replace(snapshot, vmas=vmas)
    return alike(snapshot, predict(snapshot, Policy()))


def test_nearly_equal_pages_are_those_that_were_written(snapshot: Snapshot) -> None:
    found = of_regions(snapshot).near
    assert found is not None
    assert found["ends_bytes"].sum() == 32 * PAGE
    assert found["address_bytes"].sum() == 16 * PAGE


def test_every_page_size_shares_what_was_written(snapshot: Snapshot) -> None:
    table = of_regions(snapshot).page_sizes.set_index("page_bytes")
    equal = 64 + 64 + 40  # group, shifted, and between the siblings
    assert table["bytes_saved"].to_dict() == {
        1 * KIB: (4 * equal + 3 * 32 + 3 * 16 + 8) * KIB,
        2 * KIB: (2 * equal + 32 + 16) * 2 * KIB,
        4 * KIB: equal * PAGE,
        16 * KIB: (16 + 10) * 16 * KIB,
        64 * KIB: (4 + 2) * 64 * KIB,
        2048 * KIB: 0,
    }


def test_only_siblings_could_have_loaded_it_before_the_fork(snapshot: Snapshot) -> None:
    found = of_regions(snapshot).preload
    groups = found.groups[["comm", "processes", "bytes_saved"]]
    assert groups.to_numpy().tolist() == [["actor", 3, 40 * PAGE]]
    assert found.merged_bytes == (64 + 64 + 40) * PAGE
    assert found.unknown_processes == 0


def test_copies_are_what_was_written(snapshot: Snapshot) -> None:
    found = of_regions(snapshot).copies
    assert (found.zero, found.fork, found.real) == (0, 2 * 4 * PAGE, 168 * PAGE)

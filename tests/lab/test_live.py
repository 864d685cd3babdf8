"""The live kernel, read in a guest by the package itself, against what /proc and ksmd say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from estimator.collect.further_hashes import Wanted
from estimator.kernel.collect import collect, collect_core
from estimator.kernel.running import open_qemu
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag, Unknown
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.compare import counter_numbers, process_numbers, unequal
from tests.lab.conftest import lab_kernel, newest_and_oldest
from tests.lab.debian import PYTHON
from tests.lab.kernels import IN_FULL
from tests.lab.running import DEBIAN, Running, running
from tests.lab.test_qemu import MIXED
from tests.lab.truth import report, settle
from tests.lab.workload import Workload

pytestmark = pytest.mark.lab

# Python in an emulated guest takes its time, and what differs by kernel is compared elsewhere.
ON_ONE = pytest.mark.parametrize("system", [IN_FULL[0]], indirect=True)

PROBE = Path(__file__).with_name("pagemap_probe.py")
SESSION = Path(__file__).with_name("drgn_session.py")
SCRIPT = Path(__file__).parents[2] / "scripts" / "ksm_snapshot.py"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
KPF_ANON, KPF_KSM, KPF_LARGE = 1 << 12, 1 << 21, 3 << 15
PAGE_KB = 4
EXISTS = "exists already; choose another name or remove it (collect, run: --force)"
HASHES = ["hash", "near_hash", "no_address_hash"]
SAME_FLAGS = int(FrameFlag.ZERO | FrameFlag.LARGE | FrameFlag.SWAPBACKED)

TRIES = 3  # on a busy machine the guest takes waiting for working
TIMED = """
import resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.run([sys.executable, "-m", "estimator", *sys.argv[1:]]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, time.monotonic() - started)
sys.exit(code)
"""


FAMILY = """
comm family
merge-any 1
map own 60
fill own same 2
map list 200
fill list list 1
map near 12
fill near[:6] end 3
fill near[6:] address 4
fork 2
    fill list[:50] own 7
end
"""


@pytest.fixture(scope="module", params=newest_and_oldest(IN_FULL))
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    kernel, directory = lab_kernel(request.param), tmp_path_factory.mktemp("live")
    family = FAMILY.replace("merge-any 1\n", "") if request.param == "6.1" else FAMILY
    workload = Workload("live", (*MIXED.scripts, family, family))
    with running(workload, kernel, directory, debian=True) as guest:
        guest.session.scan(2)  # some of it is merged
        guest.guest.run(f"cat {BOOT_ID}")  # the kernel makes it when it is first read
        yield guest


@pytest.fixture(scope="module")
def live(system: Running, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    command = "collect --live --workers 2 --near --symbols /symbols/vmlinux -o /tmp/live.ksm"
    status, output = system.estimator(command)
    assert status == 0, output
    return open_snapshot(
        system.fetch_snapshot("/tmp/live.ksm", tmp_path_factory.mktemp("snapshot"))
    )


@pytest.fixture(scope="module")
def proc(system: Running) -> dict[int, Any]:
    system.guest.run("mkdir -p /tmp/probe")
    system.guest.write_file("/tmp/probe/probe.py", PROBE.read_text())
    pids = " ".join(map(str, frozen_pids(system)))
    python = f"/bin/busybox chroot {DEBIAN} /usr/bin/python{PYTHON[system.guest.kernel.machine]}"
    text = system.guest.run(f"{python} /tmp/probe/probe.py {pids}")
    return {int(pid): found for pid, found in json.loads(text).items()}


def frozen_pids(system: Running) -> list[int]:
    return [p["pid"] for p in report(system.guest).processes if p["comm"] in ("actor", "family")]


def pages(snapshot: Snapshot, pids: list[int]) -> pd.DataFrame:
    """pid, address, pfn and flags of all pages mapped by ``pids``."""
    rows = snapshot.mappings.join(snapshot.vmas[["mm_id", "start"]], on="vma_id")
    rows = rows.join(snapshot.processes["pid"], on="mm_id")
    rows = rows[rows["pid"].isin(pids)]
    rows = rows.join(snapshot.frames.drop(columns="flags"), on="frame_id")
    rows["frame_flags"] = snapshot.frames["flags"].to_numpy()[rows["frame_id"]]
    rows["address"] = rows["start"] + rows["page_index"].astype("uint64") * 4096
    return rows.sort_values(["pid", "address"]).reset_index(drop=True)


def test_every_mapping_agrees_with_pagemap_and_kpageflags(
    system: Running, live: Snapshot, proc: dict[int, Any]
) -> None:
    rows = pages(live, list(proc))
    anonymous = [
        (pid, address, pfn, flags)
        for pid, found in sorted(proc.items())
        for address, pfn, flags in found["pages"]
        if flags & (KPF_ANON | KPF_KSM)
    ]
    assert len(anonymous) > 4000
    assert [row[:3] for row in anonymous] == list(
        rows[["pid", "address", "pfn"]].itertuples(index=False, name=None)
    )
    flags = pd.Series([row[3] for row in anonymous], dtype="uint64")
    assert ((rows["frame_flags"] & int(FrameFlag.LARGE)) != 0).equals((flags & KPF_LARGE) != 0)
    # in 6.12 all anonymous pages have KPF_KSM, see ksm_flag_holds(); smaps counts
    if system.guest.kernel.series != "6.12":
        assert (rows["kind"] == FrameKind.KSM).equals((flags & KPF_KSM) != 0)
    assert rows["hash"].notna().all()


def test_every_vma_agrees_with_smaps(live: Snapshot, proc: dict[int, Any]) -> None:
    rows = pages(live, list(proc))
    of_vma = rows.groupby("vma_id")
    count = of_vma.size()
    huge = rows[(rows["flags"] & int(MappingFlag.HUGE)) != 0].groupby("vma_id").size()
    ksm = rows[rows["kind"] == FrameKind.KSM].groupby("vma_id").size()
    vmas = live.vmas.join(live.processes["pid"], on="mm_id")
    checked = 0
    wanted = vmas[vmas["pid"].isin(list(proc)) & vmas["has_anon_vma"]]
    numbers = wanted[["vma_id", "pid", "start", "swap_pages"]].to_numpy(object).tolist()
    for vma_id, pid, start, swap_pages in numbers:
        smaps = proc[pid]["smaps"][str(start)]
        assert smaps["Anonymous"] == PAGE_KB * count.get(vma_id, 0)
        assert smaps["AnonHugePages"] == PAGE_KB * huge.get(vma_id, 0)
        assert smaps["Swap"] == PAGE_KB * swap_pages
        if "KSM" in smaps:  # 6.7+
            assert smaps["KSM"] == PAGE_KB * ksm.get(vma_id, 0)
        checked += 1
    assert checked > 20
    assert huge.sum() >= 512


def test_proc_alone_gives_the_same_frames(system: Running, live: Snapshot, tmp_path: Path) -> None:
    command = "collect --procfs --near --like /tmp/live.ksm -o /tmp/procfs.ksm"
    status, output = system.estimator(command)
    assert status == 0, output
    procfs = open_snapshot(system.fetch_snapshot("/tmp/procfs.ksm", tmp_path))
    pids = frozen_pids(system)
    ours, theirs = pages(procfs, pids), pages(live, pids)
    for rows in (ours, theirs):
        rows["frame_flags"] &= SAME_FLAGS
        rows["huge"] = rows["flags"] & int(MappingFlag.HUGE | MappingFlag.PROT_NONE)
    # by 7.3, /proc/PID/mem can be closed to pages without access (proc_mem.force_override=)
    unread = ours["unknown"] == Unknown.UNREADABLE
    closed = (ours["flags"] & int(MappingFlag.PROT_NONE)) != 0
    assert unread.equals(closed if unread.any() else unread)
    theirs.loc[unread, HASHES] = pd.NA
    columns = ["pid", "address", "pfn", "frame_flags", "huge", "order", "head_pfn", "node", *HASHES]
    pd.testing.assert_frame_equal(ours[columns], theirs[columns])
    assert procfs.info["unknown"]["perhaps_ksm_frames"] == 0
    assert ours["kind"].equals(theirs["kind"])
    small = ours["order"] == 0
    assert ours["mapcount"][small].equals(theirs["mapcount"][small])
    shared = ["ksm_merging_pages", "ksm_rmap_items", "ksm_zero_pages", "uid", "threads"]
    for column in ("comm", "cmdline", "start_time_ns", *shared):
        by_pid = [s.processes.set_index("pid")[column].loc[pids] for s in (procfs, live)]
        if column == "start_time_ns":
            assert ((by_pid[0].astype(float) - by_pid[1].astype(float)).abs() < 10_000_001).all()
        else:
            assert by_pid[0].equals(by_pid[1]), column
    assert procfs.info["features"] == live.info["features"]
    assert procfs.info["sizes"] == live.info["sizes"]
    assert "sizes" not in procfs.info["not_known"]
    assert procfs.info["boot_id"] == live.info["boot_id"] is not None
    moments = [s.info["kernel"]["uptime_seconds"] for s in (live, procfs)]
    assert 0 < moments[0] < moments[1]
    for name, value in live.info["ksm"].items():
        assert name in ("counters", "ksmd_cpu_ns") or procfs.info["ksm"].get(name) == value, name


@ON_ONE
def test_the_script_for_drgn_makes_the_same_snapshot(
    system: Running, live: Snapshot, tmp_path: Path
) -> None:
    system.guest.write_file("/tmp/ksm_snapshot.py", SCRIPT.read_text())
    drgn = "-m drgn -q -k -s /symbols/vmlinux /tmp/ksm_snapshot.py"
    status, output = system.python(f"{drgn} /tmp/inside.ksm /tmp/live.ksm")
    assert status == 0, output
    assert output == "wrote /tmp/inside.ksm; next: ksm-estimator predict /tmp/inside.ksm\n"
    inside = open_snapshot(system.fetch_snapshot("/tmp/inside.ksm", tmp_path))
    assert inside.info["source"] == live.info["source"]
    pids = frozen_pids(system)
    columns = ["pid", "address", "pfn", "hash", "flags", "frame_flags", "order", "mapcount", "node"]
    pd.testing.assert_frame_equal(pages(inside, pids)[columns], pages(live, pids)[columns])
    ours, theirs = (s.processes.set_index("pid").drop(columns="mm_id") for s in (inside, live))
    pd.testing.assert_frame_equal(ours.loc[pids], theirs.loc[pids])
    pd.testing.assert_frame_equal(
        inside.stable_nodes.drop(columns="frame_id"), live.stable_nodes.drop(columns="frame_id")
    )
    status, output = system.python(f"{drgn} /tmp/inside.ksm")
    assert status == 3
    assert output.splitlines() == [f"ksm_snapshot: /tmp/inside.ksm {EXISTS}"]


@ON_ONE
def test_a_session_of_drgn_has_the_command(system: Running, live: Snapshot) -> None:
    """The entry point brings it; drgn's start stays quick; what goes wrong is one line."""
    system.guest.write_file("/tmp/drgn_session.py", SESSION.read_text())
    lines = (
        "import os, sys",
        "set(sys.modules) & {'estimator.drgn_plugin', 'pandas', 'numpy'}",
        "%ksm-estimate --pid 99999",
        "%ksm-estimate -o /tmp",
        "%ksm-estimate --scope enabled",
        "_.counters['pages_sharing']",
        "os.getpriority(os.PRIO_PROCESS, 0)",
    )
    status, output = system.python(f"/tmp/drgn_session.py {shlex.join(lines)}")
    assert status == 0, output
    _, _, modules, wrong_pid, wrong_output, report, sharing, nice = (
        text.splitlines()[1:-1] for text in json.loads(output)
    )
    assert modules == ["{'estimator.drgn_plugin'}"]
    assert len(wrong_pid) == 1
    assert wrong_pid[0].startswith("drgn: error: ksm-estimate: no process of the snapshot has pid")
    assert wrong_output == [f"drgn: error: ksm-estimate: /tmp {EXISTS}"]
    assert any("pages_sharing" in line for line in report)
    assert sharing == [str(predict(live, Policy(scope="enabled")).counters["pages_sharing"])]
    assert nice == ["0"]


@ON_ONE
def test_the_process_that_reads_is_left_out(live: Snapshot) -> None:
    assert not live.processes["comm"].str.startswith("python").any()
    assert live.info["unknown"]["processes"] == 0


@ON_ONE
def test_one_worker_uses_one_core(system: Running) -> None:
    """All that the command does, symbols too; the guest has two cores."""
    collect = "collect --live --symbols /symbols/vmlinux --force -o /tmp/one.ksm"
    for _ in range(TRIES):
        status, output = system.python(f"-c {shlex.quote(TIMED)} {collect}")
        assert status == 0, output
        used, seconds = map(float, output.split()[-2:])
        if used < 1.05 * seconds:
            return
    pytest.fail(f"used {used} seconds of CPU in {seconds}")


@ON_ONE
def test_root_is_all_that_is_needed(system: Running, live: Snapshot, tmp_path: Path) -> None:
    """Without symbols the kernel's own types and symbols are read, through /proc/kcore."""
    status, output = system.estimator("check --live")
    assert status == 0, output
    assert "the kernel's own, from its memory (BTF, kallsyms)" in output
    status, output = system.estimator("collect --live -o /tmp/own.ksm")
    assert status == 0, output
    own = open_snapshot(system.fetch_snapshot("/tmp/own.ksm", tmp_path))
    assert own.info["symbols"] == "BTF"
    assert own.info["features"] == live.info["features"]
    expected, found = (predict(of, Policy(scope="enabled")) for of in (live, own))
    assert found.counters == expected.counters


@pytest.fixture(scope="module")
def looks(
    system: Running, live: Snapshot, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Snapshot]:
    """Snapshots of what holds still, by way of reading; ksmd has merged some of it and stands."""
    directory = tmp_path_factory.mktemp("looks")
    status, output = system.estimator("collect --procfs -o /tmp/four.ksm")
    assert status == 0, output
    procfs = open_snapshot(system.fetch_snapshot("/tmp/four.ksm", tmp_path_factory.mktemp("four")))
    alike = {"seed": live.info["hash"]["seed"], "wanted": Wanted(near=True)}
    system.guest.qmp("stop")
    qemu = collect(open_qemu(str(system.monitor)), **alike)
    system.guest.dump(directory / "vmcore")
    system.guest.qmp("cont")
    core = collect_core(directory / "vmcore", **alike)
    (directory / "vmcore").unlink()
    return {"live": live, "procfs": procfs, "qemu": qemu, "core": core}


@pytest.mark.parametrize(
    "policy",
    [
        Policy(scope="enabled"),
        Policy(scope="enabled", use_zero_pages=True),
        Policy(comms=("family",)),  # what else there is runs on between one look and the next
        Policy(comms=("family",), max_page_sharing=64),
    ],
    ids=["enabled", "zero", "all", "smaller"],
)
@pytest.mark.parametrize("way", ["live", "procfs", "qemu"])
def test_four_ways_of_reading_one_answer(
    looks: Mapping[str, Snapshot], way: str, policy: Policy
) -> None:
    pids = set(looks["core"].processes["pid"])
    found, dump = (answer(predict(looks[name], policy), pids) for name in (way, "core"))
    assert found == dump
    assert dump["counters"]["pages_sharing"] > 500


@pytest.mark.parametrize("way", ["live", "qemu"])
def test_further_hashes_are_those_of_the_dump(
    system: Running, looks: Mapping[str, Snapshot], way: str
) -> None:
    columns, pids = ["pid", "address", *HASHES], frozen_pids(system)
    found, dump = (pages(looks[name], pids)[columns] for name in (way, "core"))
    assert dump["near_hash"].nunique() < dump["hash"].nunique()
    assert (dump["hash"] != dump["no_address_hash"]).sum() > 30
    pd.testing.assert_frame_equal(found, dump)


def answer(prediction: Prediction, pids: Collection[int]) -> dict[str, Any]:
    """All that is said of the processes ``pids``, and of all together, by name.

    Not which frames the whole system has: the reader that runs in the guest has some of them.
    """
    physical = prediction.physical.items()
    processes = prediction.processes[prediction.processes["pid"].isin(pids)]
    vmas = prediction.vmas[prediction.vmas["pid"].isin(pids)]
    vmas = vmas[vmas["excluded_by"].isna()].set_index(["pid", "start"]).sort_index()
    processes = processes.set_index("pid").sort_index()
    return {
        "counters": prediction.counters,
        "physical": {n: v for n, v in physical if n not in ("frames_before", "frames_after")},
        "coverage": prediction.coverage,
        "scans": prediction.scans,
        "processes": processes.drop(columns="mm_id").to_dict("index"),
        "vmas": vmas.drop(columns=["mm_id", "vma_id", "excluded_by"]).to_dict("index"),
    }


def test_the_prediction_is_what_ksmd_does(system: Running, live: Snapshot) -> None:
    prediction = predict(live, Policy(scope="enabled"))
    settle(system.guest, min_scans=4)
    truth = report(system.guest)
    numbers = counter_numbers(prediction, truth) | process_numbers(prediction, truth, live, {})
    assert unequal(numbers) == {}

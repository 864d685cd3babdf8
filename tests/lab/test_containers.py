"""What a guest says where its kernel memory is closed: masked, locked down; and what is not in RAM.

Namespaces and cgroups are tried without a guest, in tests/test_rights.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from estimator.advice.host import guest_memory, machine_names
from estimator.advice.plan import make_plan
from estimator.errors import EstimatorError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.procfs.collect import collect_procfs
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot
from tests.lab.conftest import lab_kernel
from tests.lab.here.machine import no_pace, silent
from tests.lab.running import DEBIAN, RUN_SECONDS, Running, running
from tests.lab.workload import Workload

pytestmark = pytest.mark.lab

SWAPPED = """
comm swapped
map data 400
fill data list 1
advise data mergeable
advise data[:100] pageout
advise data[300:] pageout
"""
HUGE = """
comm hugetlb
map data 200
fill data list 1
advise data mergeable
map huge 1024 hugetlb
fill huge list 1
"""
CONTAINERS = Workload(
    "containers",
    (SWAPPED, SWAPPED, HUGE),
    modules=("lzo-rle", "zram"),
    settings={"/sys/block/zram0/disksize": "64M", "/proc/sys/vm/nr_hugepages": "8"},
    commands=("mkswap /dev/zram0", "swapon /dev/zram0"),
)

COLLECT = "collect --live --symbols /symbols/vmlinux --workers 2 --force -o /tmp/live.ksm"
OPTED_IN = """
import ctypes, runpy, sys
PR_SET_MEMORY_MERGE = 67
assert ctypes.CDLL(None).prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0
runpy.run_module("estimator", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("containers")
    with running(CONTAINERS, lab_kernel("6.12"), directory, debian=True) as guest:
        yield guest


@pytest.fixture(scope="module")
def snapshot(system: Running, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    status, output = system.estimator("collect --procfs -o /tmp/procfs.ksm")
    assert status == 0, output
    return open_snapshot(
        system.fetch_snapshot("/tmp/procfs.ksm", tmp_path_factory.mktemp("snapshot"))
    )


def test_what_is_in_zram_is_counted_and_not_read(system: Running, snapshot: Snapshot) -> None:
    swap_lines = system.guest.run("cat /proc/[0-9]*/smaps | grep ^Swap:")
    in_swap = sum(int(line.split()[1]) for line in swap_lines.splitlines())
    assert snapshot.vmas["swap_pages"].sum() == in_swap // 4 > 300
    found = predict(snapshot, Policy(comms=("swapped",), scope="enabled"))
    assert found.coverage.candidate_pages + found.coverage.swap_pages == 2 * 400
    assert found.coverage.hashed_share == 1
    assert found.counters["pages_sharing"] == 200


def test_what_is_in_zswap_is_counted_and_not_read(tmp_path: Path) -> None:
    """On a kernel that has it: Debian's 6.12 for clouds has not."""
    zswap = "/sys/module/zswap/parameters"
    with running(CONTAINERS, lab_kernel("7.3"), tmp_path, debian=True) as system:
        system.guest.write_file(f"{zswap}/compressor", "lzo-rle")
        system.guest.write_file(f"{zswap}/enabled", "Y")
        pid = system.session.start(SWAPPED)
        zswapped = system.guest.run("grep ^Zswapped: /proc/meminfo")
        assert int(zswapped.split()[1]) > 400  # KiB
        status, output = system.estimator("collect --procfs -o /tmp/zswap.ksm")
        assert status == 0, output
        (tmp_path / "snapshot").mkdir()
        snapshot = open_snapshot(system.fetch_snapshot("/tmp/zswap.ksm", tmp_path / "snapshot"))
    found = predict(snapshot, Policy(pids=(pid,), scope="enabled"))
    assert found.coverage.swap_pages > 100
    assert found.coverage.candidate_pages + found.coverage.swap_pages == 400
    assert found.coverage.hashed_share == 1


def test_a_host_of_virtual_machines_is_read_and_names_them(system: Running) -> None:
    """The host is this machine: the guest is a process of it, which has not opted in."""
    try:
        snapshot = collect_procfs(progress=silent, pace=no_pace)
    except EstimatorError as error:
        pytest.skip(f"this machine can't be read: {error}")
    pid = system.guest.pid
    row = (snapshot.processes["pid"] == pid).to_numpy()
    assert machine_names(snapshot.processes)[row].tolist() == [f"qemu-system-x86 {pid}"]
    ram = snapshot.vmas[guest_memory(snapshot) & row[snapshot.vmas["mm_id"]]]
    assert (ram["end"] - ram["start"]).tolist() == [1 << 30]
    (line,) = make_plan(snapshot, Policy(pids=(pid,))).lines.to_dict("records")
    assert (line["means"], line["pids"]) == ("vm", [pid])


def test_pages_of_hugetlb_are_no_candidates(snapshot: Snapshot) -> None:
    found = predict(snapshot, Policy(comms=("hugetlb",)))
    assert found.coverage.candidate_pages < 400
    assert "VM_HUGETLB" in set(found.vmas["excluded_by"])


@pytest.fixture(scope="module")
def enabled(system: Running, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    """Of --live, by a process that is in no container and has opted into nothing."""
    return _enabled(system, *system.estimator(COLLECT), tmp_path_factory.mktemp("live"))


def _enabled(system: Running, status: int, output: str, directory: Path) -> Prediction:
    assert status == 0, output
    snapshot = open_snapshot(system.fetch_snapshot("/tmp/live.ksm", directory))
    assert not snapshot.processes["comm"].str.startswith("python").any()
    return predict(snapshot, Policy(scope="enabled"))


def test_in_a_pid_namespace_all_of_the_host_is_seen(
    system: Running, enabled: Prediction, tmp_path: Path
) -> None:
    """Pids there are others: the process that reads is known by where its memory lies."""
    collect = system.command(f"-m estimator {COLLECT}")
    script = f"mount -t proc proc {DEBIAN}/proc && exec {collect}"
    status, output = system.guest.run_raw(
        f"unshare -m -p -f sh -c '{script}'", timeout_seconds=RUN_SECONDS
    )
    found = _enabled(system, status, output.decode(), tmp_path)
    assert found.counters == enabled.counters
    *pids, _ = found.processes["pid"]
    assert pids == enabled.processes["pid"].tolist()
    assert found.processes["comm"].iloc[-1] == "unshare"  # which waits


def test_a_process_that_has_opted_in_itself_is_left_out(
    system: Running, enabled: Prediction, tmp_path: Path
) -> None:
    """As in a session of systemd with MemoryKSM=: whoever is started there has opted in."""
    opted_in = f"-c {shlex.quote(OPTED_IN)} {COLLECT}"
    found = _enabled(system, *system.python(opted_in), tmp_path)
    assert found.counters == enabled.counters
    assert found.processes["pid"].tolist() == enabled.processes["pid"].tolist()


def test_a_masked_kcore_is_named_and_procfs_does_without(system: Running) -> None:
    mask = f"mount -o bind /dev/null {DEBIAN}/proc/kcore"
    command = system.command("-m estimator check")
    script = f"{mask} && {command} --live; echo $? && {command} --procfs"
    status, output = system.guest.run_raw(
        f"unshare -m sh -c '{script}'", timeout_seconds=RUN_SECONDS
    )
    text = output.decode()
    assert status == 0, text
    live, procfs = text.split("\n3\n")
    assert "fail rights:" in live
    assert "/proc/kcore is empty: a container masks it; collect --procfs" in live
    assert "fail" not in procfs


def test_lockdown_closes_kcore_and_not_procfs(system: Running) -> None:
    """The last one: it can't be undone. A container has no securityfs to say why."""
    securityfs = f"{DEBIAN}/sys/kernel/security"
    system.guest.run(f"mount -t securityfs securityfs {securityfs}")
    system.guest.write_file(f"{securityfs}/lockdown", "confidentiality")
    told = "/proc/kcore is forbidden: the kernel is locked down (confidentiality)"
    for arguments, expected in (
        ("check --live", 3),
        ("check --procfs", 0),
        ("collect --procfs -o /tmp/locked.ksm", 0),
    ):
        status, output = system.estimator(arguments)
        assert status == expected, output
        assert (told in output) == (expected == 3)
    system.guest.run(f"umount {securityfs}")
    status, output = system.estimator("run --live")
    assert status == 3
    assert "/proc/kcore is forbidden, as where the kernel is locked down" in output

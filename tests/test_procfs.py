"""The reader of /proc: on files as kernels write them, and on a process of this machine."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from estimator.facts import FrameFlag
from estimator.procfs import frames, processes, settings, vmas
from estimator.procfs.collect import collect_procfs
from estimator.procfs.processes import Process
from estimator.snapshot import Snapshot

REPOSITORY = Path(__file__).parents[1]
SMAPS = """\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0                          [anon:a b]
Size:               2048 kB
Anonymous:          1024 kB
KSM:                   8 kB
AnonHugePages:         0 kB
Swap:                  4 kB
VmFlags: rd wr mr mw me ac mg sd
7f0000200000-7f0000300000 rw-s 00000000 00:01 123                        /dev/shm/x y
Size:               1024 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr sh mr mw me ms sd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Size:                  4 kB
VmFlags: ex
"""


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (frames, processes, vmas):
        monkeypatch.setattr(module, "PROC", tmp_path)
    return tmp_path


def test_smaps_say_what_ksmd_may_merge(proc: Path) -> None:
    (proc / "7").mkdir()
    (proc / "7" / "smaps").write_text(SMAPS)
    table, smaps = vmas.read_vmas([Process(7, "x", [])])
    assert table["name"].tolist() == ["[anon:a b]", "/dev/shm/x y"]
    assert table["start"].tolist() == [0x7F0000000000, 0x7F0000200000]
    assert table["mergeable"].tolist() == [True, False]
    assert table["excluded_by"].isna().tolist() == [True, False]
    assert table["excluded_by"].iloc[1] == "VM_MAYSHARE"
    assert table["has_anon_vma"].tolist() == [True, False]
    assert table["vm_flags"].tolist()[0] == 0x8810_0073
    assert smaps["Anonymous"].tolist() == [256, 0]
    assert smaps["KSM"].tolist() == [2, 0]


def test_page_flags_say_which_folio_a_frame_is_in(proc: Path) -> None:
    head, tail, anon, lru = 1 << 15, 1 << 16, 1 << 12, 1 << 5
    words = np.zeros(2048, np.uint64)
    words[512:1024] = anon | tail
    words[512] = anon | head
    words[1032:1048] = anon | tail
    words[1032] = anon | head | lru
    words[1100] = anon | lru
    (proc / "kpageflags").write_bytes(words.tobytes())
    (proc / "kpagecount").write_bytes(np.arange(2048, dtype=np.uint64).tobytes())
    facts, _ = frames.frame_facts(np.array([700, 1033, 1100, 1200], np.uint64))
    assert facts["head_pfn"].tolist() == [512, 1032, 1100, 1200]
    assert facts["order"].tolist() == [9, 4, 0, 0]
    assert facts["anonymous"].tolist() == [True, True, True, False]
    assert facts["mapcount"].tolist() == [700, 1033, 1100, 1200]
    assert facts["refcount"].tolist() == [-1] * 4
    assert facts["folio_mapcount"].tolist() == [-1, -1, 1100, 1200]
    assert (facts["flags"] & int(FrameFlag.LARGE)).astype(bool).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("release", "checksum_first", "splits_to_zero", "prot_none", "blocks"),
    [
        ("6.1.192-cloud", False, False, True, True),
        ("6.1.0-18-amd64", False, False, False, False),
        ("6.8.0-45-generic", False, False, True, False),
        ("6.12.117+deb12-cloud-amd64", True, True, True, False),
        ("6.18.44", True, True, True, False),
    ],
)
def test_features_by_release(
    release: str, checksum_first: bool, splits_to_zero: bool, prot_none: bool, blocks: bool
) -> None:
    found = settings.features(release)
    assert found["checksum_before_stable_tree"] == checksum_first
    assert found["split_maps_zero_page"] == splits_to_zero
    assert found["scans_prot_none"] == prot_none
    assert found["prot_none_blocks_tree"] == blocks


def test_the_release_of_kernel_org_is_found_behind_that_of_debian(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.1.0-56-cloud-amd64")
    monkeypatch.setattr(
        "platform.version", lambda: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026)"
    )
    assert settings.upstream_release() == "6.1.192"
    monkeypatch.setattr("platform.version", lambda: "#45-Ubuntu SMP PREEMPT_DYNAMIC")
    (tmp_path / "signature").write_text("Ubuntu 6.8.0-45.45-generic 6.8.12\n")
    monkeypatch.setattr(settings, "_UBUNTU", tmp_path / "signature")
    assert settings.upstream_release() == "6.8.12"
    monkeypatch.setattr(settings, "_UBUNTU", tmp_path / "none")
    assert settings.upstream_release() == "6.1.0-56-cloud-amd64"


def sees_pfns() -> bool:
    """Whether this machine shows its PFNs to us."""
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE)
    page[0] = 1
    address = np.frombuffer(page, np.uint8).ctypes.data
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            entry = int.from_bytes(os.pread(file.fileno(), 8, address // 4096 * 8), "little")
    except OSError:
        return False
    return entry & ((1 << 55) - 1) != 0 and os.access("/proc/kpageflags", os.R_OK)


needs_pfns = pytest.mark.skipif(
    not sees_pfns() or not Path("/sys/kernel/mm/ksm").is_dir(),
    reason="no PFNs to be seen here; the same is tested in a guest",
)
CHILD = """
import mmap, os, sys
area = mmap.mmap(-1, 40 * 4096, mmap.MAP_PRIVATE)
for page in range(30):
    area[page * 4096:(page + 1) * 4096] = bytes([page]) * 4096
pid = os.fork()
if pid == 0:
    area[0:4096] = bytes([77]) * 4096
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.waitpid(pid, 0)
"""


@needs_pfns
def test_a_process_and_its_fork_are_seen_page_by_page() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        snapshot = collect_procfs(seed=0, progress=lambda *_: None, pace=lambda _: None)
        os.kill(child, signal.SIGKILL)
    expected = [xxh3_64_intdigest(bytes([page]) * 4096, 0) for page in range(30)]
    of_parent, of_child = (contents(snapshot, pid, expected[5]) for pid in (parent.pid, child))
    assert [h for _, h in of_parent] == expected
    assert [h for _, h in of_child] == [xxh3_64_intdigest(bytes([77]) * 4096, 0), *expected[1:]]
    same = [a[0] == b[0] for a, b in zip(of_parent, of_child, strict=True)]
    assert same == [False] + [True] * 29  # frames shared by fork
    assert os.getpid() not in set(snapshot.processes["pid"])


def contents(snapshot: Snapshot, pid: int, known: int) -> list[tuple[int, int]]:
    """Frame and hash of the first 30 pages of the VMA of ``pid`` that holds ``known``."""
    mm_id = snapshot.processes.set_index("pid").loc[pid, "mm_id"]
    own = snapshot.vmas[snapshot.vmas["mm_id"] == mm_id]
    rows = snapshot.mappings[snapshot.mappings["vma_id"].isin(own["vma_id"])]
    hashes = snapshot.frames["hash"].iloc[rows["frame_id"]].to_numpy(np.uint64, na_value=0)
    at = int(np.flatnonzero(hashes == known)[0]) - 5
    return list(
        zip(rows["frame_id"].iloc[at : at + 30], hashes[at : at + 30].tolist(), strict=True)
    )


@needs_pfns
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "estimator", "collect", "--procfs", "--rate", "1"]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "x.ksm")],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(3.0)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr == "ksm-estimator: interrupted\n"
    assert list(tmp_path.iterdir()) == []

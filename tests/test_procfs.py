"""The reader of /proc: on files as kernels write them, and on a process of this machine."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from xxhash import xxh3_64_intdigest

from estimator.arrays import Columns
from estimator.collect.load import low_priority
from estimator.errors import CannotAnswerError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.procfs import check, nodes, pagemap, processes, running_kernel, vmas
from estimator.procfs import collect as module
from estimator.procfs import ksm_settings as settings
from estimator.procfs import page_contents as procfs_contents
from estimator.procfs import page_flags as frames
from estimator.procfs.collect import collect_procfs
from estimator.procfs.processes import Process
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.flags import UNKNOWN_NODE, FrameFlag, FrameKind, Unknown
from estimator.snapshot.snapshot import Snapshot
from tests.lab.test_replaced_words import check_rows

REPOSITORY = Path(__file__).parents[1]
HANGS_SECONDS = 300  # never waited for: the machine may be busy
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
    for part in (frames, processes, vmas):
        monkeypatch.setattr(part, "PROC", tmp_path)
    return tmp_path


NO_OTHERS = np.zeros(1, np.bool_)
NOTHING = dict.fromkeys(("AnonHugePages", "Rss", "Swap"), np.zeros(1, np.uint64))


def test_smaps_say_what_ksmd_may_merge(proc: Path) -> None:
    (proc / "7").mkdir()
    (proc / "7" / "smaps").write_text(SMAPS)
    table, smaps, known = vmas.read_vmas([Process(7, "x", []), Process(8, "gone", [])], 2)
    assert known.tolist() == [True, False]
    assert table["name"].tolist() == ["[anon:a b]", "/dev/shm/x y"]
    assert table["start"].tolist() == [0x7F0000000000, 0x7F0000200000]
    assert table["mergeable"].tolist() == [True, False]
    assert table["excluded_by"].tolist() == [None, "VM_SHARED"]
    assert table["has_anon_vma"].tolist() == [True, False]
    assert table["vm_flags"].tolist()[0] == 0x8810_0073
    assert smaps["Anonymous"].tolist() == [256, 0]
    assert smaps["KSM"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("word", "machine_has_mte", "tagged"),
    [
        (1 << 24, True, False),
        (1 << 24 | 1 << 41, True, True),
        (1 << 24 | 1 << 41, False, False),  # of x86-64 the bit is another
        (1 << 41, True, None),
    ],
)
def test_the_zero_page_may_be_flagged_as_tagged(
    word: int, machine_has_mte: bool, tagged: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "frame_words", lambda name, pfns: np.array([word], np.uint64))
    monkeypatch.setattr(frames, "_FLAGS", {41: FrameFlag.MTE} if machine_has_mte else {})
    assert frames.zero_page_tagged() is tagged


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
    facts = frames.frame_facts(
        np.array([700, 1033, 1100, 1200], np.uint64), np.array([1, 1, 0, 1], np.bool_)
    )
    assert facts["head_pfn"].tolist() == [512, 1032, 1100, 1200]
    assert facts["order"].tolist() == [9, 4, 0, 0]
    assert (facts["kind"] != 0).tolist() == [True, True, True, False]
    assert facts["mapcount"].tolist() == [700, 1033, 1100, 1]
    assert facts["refcount"].tolist() == [-1] * 4
    assert facts["folio_mapcount"].tolist() == [-1, -1, 1100, 1]
    assert (facts["flags"] & int(FrameFlag.LARGE)).astype(bool).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("contents", "kinds"),
    [
        ("anonymous", [1, 0, 0, 0, 1, 0]),
        ("all", [1, FrameKind.SHMEM, FrameKind.HUGETLB, 0, FrameKind.HUGETLB, 0]),
        ("all,file", [1, FrameKind.SHMEM, FrameKind.HUGETLB, FrameKind.FILE, 4, 0]),
    ],
)
def test_page_flags_say_what_a_frame_is(proc: Path, contents: str, kinds: list[int]) -> None:
    anon, lru, mmap, backed, huge = (1 << bit for bit in (12, 5, 11, 14, 17))
    words = [anon | lru | backed, lru | backed, huge | mmap, mmap, huge | anon, backed]
    (proc / "kpageflags").write_bytes(np.array(words, np.uint64).tobytes())
    (proc / "kpagecount").write_bytes(np.ones(6, np.uint64).tobytes())
    facts = frames.frame_facts(np.arange(6, dtype=np.uint64), np.zeros(6, np.bool_), contents)
    assert facts["kind"].tolist() == kinds


def test_which_vmas_can_map_other_memory() -> None:
    flags = [0x8, 0x0, 0x40_0000 | 0x4_0000, 0x8 | 0x4_0000, 0x8 | 0x400, 0x8, 0x0]
    table: Columns = {
        "start": np.arange(7, dtype=np.uint64),
        "vm_flags": np.array(flags, np.uint64),
    }
    smaps = {name: np.zeros(7, np.uint64) for name in vmas._VALUES}
    smaps["Rss"][:] = [5, 4, 0, 5, 5, 0, 6]
    smaps["Anonymous"][:] = [0, 1, 0, 0, 0, 0, 6]
    smaps["Private_Hugetlb"][2] = 512
    found, pages = vmas.with_others(table, smaps, "all")
    assert found.tolist() == [True, True, True, False, False, False, False]
    assert pages == 5 + 3 + 512
    assert not vmas.with_others(table, smaps, "anonymous")[0].any()


ZONEINFO = """\
Node 0, zone      DMA
  pages free     1
        spanned  4095
        present  3997
  start_pfn:           1
Node 0, zone   Normal
        spanned  {spanned}
  start_pfn:           4096
Node 0, zone  Movable
  pages free     0
        spanned  0
Node 1, zone   Normal
        spanned  40000
  start_pfn:           60000
"""


@pytest.mark.parametrize(
    ("spanned", "expected"),
    [
        # node 0 ends and node 1 begins within block 1, which both have: zones tell
        (60000 - 4096, [0, 0, 0, 1, 1]),
        # zones overlap (there is more of node 0 behind node 1): only blocks of one node tell
        (100000, [0, 0, 0, UNKNOWN_NODE, 1]),
        (None, [0, 0, UNKNOWN_NODE, UNKNOWN_NODE, 1]),
    ],
)
def test_the_node_of_a_frame_is_known_if_one_node_alone_can_have_it(
    spanned: int | None, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_NODES", "_MEMORY", "PROC"):
        monkeypatch.setattr(nodes, name, tmp_path / name)
        (tmp_path / name).mkdir()
    (tmp_path / "_MEMORY" / "block_size_bytes").write_text("8000000\n")
    for node, blocks in ((0, (0, 1)), (1, (1, 2))):
        for block in blocks:
            (tmp_path / "_NODES" / f"node{node}" / f"memory{block}").mkdir(parents=True)
    if spanned:
        (tmp_path / "PROC" / "zoneinfo").write_text(ZONEINFO.format(spanned=spanned))
    pfns = np.array([1, 5000, 59999, 60000, 70000], np.uint64)
    assert nodes.nodes_of(pfns).tolist() == expected


def test_without_memory_blocks_zones_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_NODES", "_MEMORY", "PROC"):
        monkeypatch.setattr(nodes, name, tmp_path / name)
    for node in (0, 1):
        (tmp_path / "_NODES" / f"node{node}").mkdir(parents=True)
    (tmp_path / "PROC").mkdir()
    (tmp_path / "PROC" / "zoneinfo").write_text(ZONEINFO.format(spanned=60000 - 4096))
    pfns = np.array([1, 59999, 60000, 200000], np.uint64)
    assert nodes.nodes_of(pfns).tolist() == [0, 0, 1, UNKNOWN_NODE]


def test_the_release_of_kernel_org_is_found_behind_that_of_debian(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.1.0-56-cloud-amd64")
    monkeypatch.setattr(
        "platform.version", lambda: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026)"
    )
    assert running_kernel.upstream_release() == "6.1.192"
    monkeypatch.setattr("platform.version", lambda: "#45-Ubuntu SMP PREEMPT_DYNAMIC")
    (tmp_path / "signature").write_text("Ubuntu 6.8.0-45.45-generic 6.8.12\n")
    monkeypatch.setattr(running_kernel, "_UBUNTU", tmp_path / "signature")
    assert running_kernel.upstream_release() == "6.8.12"
    monkeypatch.setattr(running_kernel, "_UBUNTU", tmp_path / "none")
    assert running_kernel.upstream_release() == "6.1.0-56-cloud-amd64"


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
def test_a_process_and_its_fork_are_seen_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        only([parent.pid, child, os.getpid()], monkeypatch)
        snapshot = collect()
        os.kill(child, signal.SIGKILL)
    expected = [digest(page) for page in range(30)]
    of_parent, of_child = (contents(snapshot, pid, expected[5]) for pid in (parent.pid, child))
    assert [h for _, h in of_parent] == expected
    assert [h for _, h in of_child] == [digest(77), *expected[1:]]
    same = [a[0] == b[0] for a, b in zip(of_parent, of_child, strict=True)]
    assert same == [False] + [True] * 29  # frames shared by fork
    assert os.getpid() not in set(snapshot.processes["pid"])


def digest(byte: int) -> int:
    """The hash of a page of this byte."""
    return xxh3_64_intdigest(bytes([byte]) * 4096, 0)


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


BASE = 0x2000_0000_0000
ON_COMMAND = f"""
import ctypes, mmap, os, signal, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
pages = int(sys.argv[1])
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10_0000  # MAP_FIXED_NOREPLACE
assert libc.mmap({BASE}, pages * 4096, 3, flags, -1, 0) == {BASE}
libc.madvise(ctypes.c_void_p({BASE}), ctypes.c_size_t(pages * 4096), 15)  # MADV_NOHUGEPAGE
for page in range(pages):
    ctypes.memset({BASE} + page * 4096, page % 200 + 1, 4096)
child = os.fork() if len(sys.argv) > 2 else -1
if child == 0:
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    signal.pause()
print(os.getpid(), child, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@contextmanager
def on_command(pages: int, *fork: str) -> Iterator[tuple[list[int], Callable[[str], None]]]:
    """A process with ``pages`` pages at BASE, perhaps a fork of it, that executes what we say."""
    command = [sys.executable, "-c", ON_COMMAND, str(pages), *fork]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        pids = [int(pid) for pid in stdout.readline().split()]

        def execute(line: str) -> None:
            stdin.write(line + "\n")
            stdin.flush()
            assert stdout.readline() == "done\n"

        yield pids, execute


def only(pids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but these processes be read."""

    def read() -> tuple[list[Process], int]:
        found, _ = processes.read_processes()
        return [process for process in found if process.pid in pids], 0

    for part in (module, check):
        monkeypatch.setattr(part, "read_processes", read)


def after_the_first_walk(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Do something once, when page tables were walked and nothing was hashed yet."""
    original, calls = procfs_contents.look_at, itertools.count()

    def look_at(*arguments: Any) -> Any:
        if next(calls) == 0:
            happens()
        return original(*arguments)

    monkeypatch.setattr(module, "look_at", look_at)


def collect(
    pace: Callable[[int], None] = lambda _: None, *, without_contents: bool = False
) -> Snapshot:
    return collect_procfs(
        without_contents=without_contents, seed=0, progress=lambda *_: None, pace=pace
    )


def at_base(snapshot: Snapshot, pid: int) -> dict[int, int | None]:
    """Hash by page of the mappings at BASE; None where unknown."""
    mm_id = snapshot.processes.set_index("pid").loc[pid, "mm_id"]
    own = snapshot.vmas[(snapshot.vmas["mm_id"] == mm_id) & (snapshot.vmas["start"] >= BASE)]
    rows = snapshot.mappings.merge(own[own["start"] < 2 * BASE], on="vma_id")
    page = (rows["start"] - BASE) // 4096 + rows["page_index"]
    frames = snapshot.frames.iloc[rows["frame_id"]]
    known = frames["hash"].to_numpy(object)
    return {
        int(p): int(h) if u == Unknown.HASHED else None
        for p, h, u in zip(page, known, frames["unknown"], strict=True)
    }


@needs_pfns
def test_one_worker_and_two_make_the_same_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_command(3000, "fork") as (pids, execute):
        execute(f"libc.munmap({BASE} + 1111 * 4096, 4096)")
        only(pids, monkeypatch)
        before = os.sched_getaffinity(0)
        try:
            two = collect()
            os.sched_setaffinity(0, {min(before)})
            one = collect()
        finally:
            os.sched_setaffinity(0, before)
    assert at_base(one, pids[0]).keys() == set(range(3000)) - {1111}
    for snapshot in (one, two):  # the kernel puts pages on its lists when it likes
        snapshot.frames["flags"] &= ~int(FrameFlag.LRU) & 0xFFFF_FFFF
    for name in ("processes", "vmas", "mappings", "frames"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    assert one.frames["hash"].notna().all()


@needs_pfns
def test_without_contents_no_memory_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_command(50, "fork") as (pids, _):
        only(pids, monkeypatch)
        whole = collect()
        monkeypatch.setattr(procfs_contents, "_hash_frames", None)
        found = collect(without_contents=True)
        warned = {f.subject: f.status for f in check.check_procfs(without_contents=True).found}
    check_snapshot("x", found)
    assert set(found.frames["unknown"]) == {Unknown.NOT_READ}
    columns = ["vma_id", "page_index", "flags"]
    assert found.mappings[columns].equals(whole.mappings[columns])
    assert at_base(found, pids[1]) == dict.fromkeys(range(50))
    mapcounts, expected = (  # by mapping: the kernel may have moved frames
        each.frames["mapcount"].to_numpy()[each.mappings["frame_id"]] for each in (found, whole)
    )
    np.testing.assert_array_equal(mapcounts, expected)
    assert warned["coverage"] == "warn"


@needs_pfns
def test_a_frame_is_not_known_by_what_took_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent and child share frames; they are read through the parent, which writes meanwhile."""
    with on_command(50, "fork") as (pids, execute):
        only(pids, monkeypatch)
        after_the_first_walk(monkeypatch, lambda: execute(f"ctypes.memset({BASE}, 77, 5 * 4096)"))
        snapshot = collect()
    of_child = at_base(snapshot, pids[1])
    assert of_child == {page: None if page < 5 else digest(page + 1) for page in range(50)}
    of_parent = at_base(snapshot, pids[0])
    assert {page: of_parent[page] for page in range(5, 50)} == {
        page: of_child[page] for page in range(5, 50)
    }
    assert all(of_parent.get(page) in (None, digest(77)) for page in range(5))


@needs_pfns
def test_a_page_that_is_gone_does_not_hide_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_command(50) as (pids, execute):
        only(pids[:1], monkeypatch)
        after_the_first_walk(monkeypatch, lambda: execute(f"libc.munmap({BASE} + 4096, 4096)"))
        snapshot = collect()
    assert at_base(snapshot, pids[0]) == {p: digest(p + 1) for p in range(50) if p != 1}


@needs_pfns
@pytest.mark.parametrize("other", [{22: "1"}, {26: "4096"}, None])
def test_a_pid_that_is_another_process_by_now_is_left_out(
    other: dict[int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another start time: the pid was used again. Another start of code: exec. None: gone."""
    original = processes._process
    changed: set[int] = set()

    def read(pid: int) -> Process:
        process = original(pid)
        if pid in changed:
            if other is None:
                raise ProcessLookupError(pid)
            for number, text in other.items():
                process.stat[number - 3] = text
        return process

    monkeypatch.setattr(processes, "_process", read)
    with on_command(50, "fork") as (pids, _):
        only(pids, monkeypatch)
        after_the_first_walk(monkeypatch, lambda: changed.add(pids[0]))
        snapshot = collect()
    assert snapshot.processes["pid"].tolist() == pids[1:]
    assert snapshot.info["unknown"]["processes"] == 1
    assert snapshot.processes["mm_id"].tolist() == [0]
    assert set(snapshot.vmas["mm_id"]) == {0}
    assert at_base(snapshot, pids[1]) == {page: digest(page + 1) for page in range(50)}


STAT = "7 (a) b) S " + " ".join(str(number) for number in range(4, 53))  # 23, vsize, is not 0


def test_processes_that_can_not_be_read_are_counted(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that ended after they were listed, a file cut off, and one that may not be read."""
    with pytest.raises(CannotAnswerError, match="no process with user memory"):
        processes.read_processes()
    for pid, text in ((7, STAT), (8, STAT.replace(" 23 ", " 0 ")), (9, "9 (cut) S 1")):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "stat").write_text(text)
    (proc / "10").mkdir()
    (proc / "self").mkdir()
    found, lost = processes.read_processes()
    assert [process.pid for process in found] == [7]
    assert lost == 2


def test_a_thread_of_damon_is_seen(proc: Path) -> None:
    for pid, comm in ((7, "systemd"), (8, "kdamon")):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "comm").write_text(f"{comm}\n")
    (proc / "9").mkdir()
    assert not processes.damon_runs()
    (proc / "9" / "comm").write_text("kdamond.0\n")
    assert processes.damon_runs()


def one_vma(pages: int) -> Columns:
    """From address 0 on, with anonymous memory."""
    table = {"mm_id": 0, "start": 0, "end": pages << 12, "vm_flags": 3, "has_anon_vma": 1}
    return {name: np.array([value], np.uint64) for name, value in table.items()}


@pytest.mark.parametrize("name", ["stat", "smaps", "pagemap"])
def test_too_many_open_files_do_not_make_a_process_vanish(
    name: str, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagemap, "PROC", proc)

    def refuse(self: Path, *_: object, **__: object) -> None:
        if self.name == name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    (proc / "7").mkdir()
    for opens in ("open", "read_bytes"):
        monkeypatch.setattr(Path, opens, refuse)
    maps = pagemap.PageMaps([Process(7, "x", [])], one_vma(1), NOTHING, NO_OTHERS, 1)
    reading: dict[str, Callable[[], Any]] = {
        "stat": processes.read_processes,
        "smaps": lambda: vmas.read_vmas([Process(7, "x", [])], 2),
        "pagemap": lambda: maps.walk(lambda _: None),
    }
    with pytest.raises(OSError, match="Too many open files"):
        reading[name]()


@needs_pfns
def test_a_process_whose_memory_can_not_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    original = vmas._of_process
    with on_command(50, "fork") as (pids, _):
        only(pids, monkeypatch)
        monkeypatch.setattr(
            vmas,
            "_of_process",
            lambda process: None if process.pid == pids[0] else original(process),
        )
        snapshot = collect()
    assert snapshot.processes["pid"].tolist() == pids[1:]
    assert snapshot.info["unknown"]["processes"] == 1


@needs_pfns
def test_a_snapshot_says_which_sizes_it_assumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_command(2) as (pids, _):
        only(pids, monkeypatch)
        for assumed in ([], ["ksm_mm_slot"]):
            monkeypatch.setattr(
                module, "struct_sizes", lambda _, names=assumed: ({"ksm_mm_slot": 56}, names)
            )
            info = collect().info
            assert info["sizes"] == {"ksm_mm_slot": 56}
            assert ("sizes" in info["not_known"]) == bool(assumed)
    assert "ksm_mm_slot: as usual" in info["not_known"]["sizes"]


def test_mms_on_the_list_of_ksmd_come_first_with_their_vmas() -> None:
    table: Columns = {
        "vma_id": np.arange(5),
        "mm_id": np.array([0, 1, 1, 2, 3]),
        "start": np.array([9, 1, 2, 5, 7]),
    }
    listed = np.array([False, True, False, True])
    order, moved, smaps = vmas.listed_first(listed, table, {"KSM": np.arange(5, dtype=np.uint64)})
    assert order.tolist() == [1, 3, 0, 2]
    assert moved["mm_id"].tolist() == [0, 0, 1, 2, 3]
    assert moved["vma_id"].tolist() == [0, 1, 2, 3, 4]
    assert moved["start"].tolist() == [1, 2, 7, 9, 5]
    assert smaps["KSM"].tolist() == [1, 2, 4, 0, 3]
    there, known = np.array([False, True, True, True]), np.array([True, True, True, False])
    rows = processes.numbered({"pid": np.array([11, 13, 10, 12])}, there, listed[order], known)
    assert rows["pid"].tolist() == [13, 10, 12]
    assert rows["scan_order"].tolist() == [0, -1, None]
    assert rows["mm_id"].tolist() == [0, 1, 2]


def test_the_kernel_says_who_is_on_the_list_of_ksmd(proc: Path) -> None:
    process = Process(7, "x", [])
    (proc / "7").mkdir()
    for mergeable in (False, True):
        (proc / "7" / "ksm_stat").write_text("ksm_rmap_items 0\n")
        assert processes.is_listed(process, mergeable=mergeable) == (True if mergeable else None)
        for answer in ("yes", "no"):
            (proc / "7" / "ksm_stat").write_text(f"ksm_mergeable: {answer}\n")
            assert processes.is_listed(process, mergeable=mergeable) == (answer == "yes")


@needs_pfns
def test_scope_enabled_finds_what_a_process_has_opted_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_command(50, "fork") as (pids, execute):
        execute(f"libc.madvise(ctypes.c_void_p({BASE}), ctypes.c_size_t(50 * 4096), 12)")
        execute(f"ctypes.memset({BASE}, 99, 2 * 4096)")
        only(pids, monkeypatch)
        snapshot = collect()
    check_snapshot("x", snapshot)
    order = snapshot.processes.set_index("pid")["scan_order"]
    assert order[pids[0]] == 0
    assert order[pids[1]] is pd.NA or order[pids[1]] == -1  # ksm_mergeable is there since 6.16
    found = predict(snapshot, Policy(scope="enabled"))
    assert found.counters["pages_sharing"] == 1
    assert found.counters["ksm_rmap_items"] > 0


def test_no_call_is_made_by_a_number_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    class Libc:
        def __init__(self, _: None) -> None:
            pass

        def syscall(self, number: int, *_: int) -> int:
            called.append(number)
            return 0

    monkeypatch.setattr("ctypes.CDLL", Libc)
    monkeypatch.setattr("os.nice", lambda _: None)
    monkeypatch.setattr("os.setpriority", lambda *_: None)
    for machine, expected in (
        ("x86_64", [252, 251, 251]),
        ("aarch64", [31, 30, 30]),
        ("riscv", []),
    ):
        monkeypatch.setattr("platform.machine", lambda name=machine: name)
        with low_priority():
            pass
        assert called == expected
        called.clear()


@needs_pfns
def test_without_processes_check_and_collect_refuse_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_process", lambda pid: Process(pid, "x", ["0"] * 50))
    assert check.check_procfs().exit_code == 5
    with pytest.raises(CannotAnswerError, match="no process"):
        collect()


@needs_pfns
def test_a_snapshot_says_of_which_boot_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_command(2) as (pids, _):
        only(pids, monkeypatch)
        info = collect().info
    assert info["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    uptime_seconds = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < uptime_seconds - info["kernel"]["uptime_seconds"] < HANGS_SECONDS
    known = Path("/etc/machine-id")
    assert info["machine_id"] == (known.read_text().strip() or None if known.exists() else None)


def test_pages_far_into_a_vma_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = 1 << 32  # pages
    present, once = np.uint64(1 << 63), np.uint64(1 << 56)
    (tmp_path / "7").mkdir()
    with (tmp_path / "7" / "pagemap").open("wb") as file:  # sparse
        for page, pfn in ((5, 100), (far - 1, 101), (far + 5, 102), (far + 6, 103)):
            file.seek(8 * page)
            file.write((present | once * np.uint64(pfn < 102) | np.uint64(pfn)).tobytes())
    monkeypatch.setattr(pagemap, "PROC", tmp_path)
    monkeypatch.setattr(pagemap, "_populated", lambda *_: [(5, 6), (far - 1, far + 7)])
    maps = pagemap.PageMaps([Process(7, "x", [])], one_vma(far + 8), NOTHING, NO_OTHERS, 2)
    mapped = maps.walk(lambda _: None)
    assert mapped.page_index[:].tolist() == [5, far - 1, far + 5, far + 6]
    assert mapped.pfn[:].tolist() == [100, 101, 102, 103]
    shared = maps.shared()
    assert shared is not None
    assert shared[:].tolist() == [102, 103]
    maps.walk(lambda _: None)
    assert maps.shared() is None  # later frames are few, and all of them are asked about


@needs_pfns
def test_how_often_a_frame_is_mapped_is_what_the_kernel_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with on_command(50, "fork") as (pids, _):
        only(pids, monkeypatch)
        snapshot = collect()
        with Path("/proc/kpagecount").open("rb", 0) as file:
            words = [os.pread(file.fileno(), 8, 8 * int(pfn)) for pfn in snapshot.frames["pfn"]]
    counts = [int.from_bytes(word, "little") for word in words]
    assert snapshot.frames["mapcount"].tolist() == counts
    assert {1, 2} <= set(counts)


@needs_pfns
def test_more_places_than_the_kernel_tells_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """PAGEMAP_SCAN gathers 512 regions, and then says that it came no farther than that."""
    places, apart = 700, 4 << 20  # bytes
    with on_command(1) as (pids, execute):
        only(pids[:1], monkeypatch)
        execute(f"at = libc.mmap(None, {places * apart}, 3, 0x4022, -1, 0)")
        execute(f"libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t({places * apart}), 15)")
        execute(f"[ctypes.memset(at + n * {apart}, 7, 4096) for n in range({places})]")
        snapshot = collect()
    frames = snapshot.frames["hash"].iloc[snapshot.mappings["frame_id"]]
    found = snapshot.mappings[(frames == digest(7)).to_numpy()]
    (vma_id,) = found["vma_id"][found["vma_id"].duplicated()].unique()
    pages = found["page_index"][found["vma_id"] == vma_id].to_numpy()
    np.testing.assert_array_equal(np.diff(pages), apart // 4096)
    assert len(pages) == places
    assert snapshot.info["unknown"]["processes"] == 0


@needs_pfns
def test_what_is_mostly_full_is_read_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[range]()

    def populated(_: int, start: int, end: int) -> list[tuple[int, int]]:
        asked.append(range(start, end))
        return [(start, end)]

    monkeypatch.setattr(pagemap, "_populated", populated)
    with on_command(20_000) as (pids, _):
        only(pids[:1], monkeypatch)
        snapshot = collect()
    assert not any(BASE >> 12 in pages for pages in asked)
    assert len(at_base(snapshot, pids[0])) == 20_000


CHURN = """
import mmap, os, sys
print(os.getpid(), flush=True)
while True:
    areas = [mmap.mmap(-1, 64 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(20)]
    for area in areas:
        for page in range(64):
            area[page * 4096:(page + 1) * 4096] = bytes([97 + page % 16]) * 4096
    child = os.fork()
    if child == 0:
        areas[0][:4096 * 32] = bytes([97]) * (4096 * 32)
        os._exit(0)
    areas[1][:4096 * 32] = bytes([98]) * (4096 * 32)
    for area in areas:
        area.close()
    os.waitpid(child, 0)
"""


@needs_pfns
def test_what_moves_is_no_harm_to_what_holds_still(monkeypatch: pytest.MonkeyPatch) -> None:
    churning = [
        subprocess.Popen([sys.executable, "-c", CHURN], stdout=subprocess.PIPE) for _ in range(3)
    ]
    try:
        pids = []
        for process in churning:
            assert process.stdout is not None
            pids.append(int(process.stdout.readline()))
        with on_command(300, "fork") as (frozen, _):
            only([*frozen, *pids], monkeypatch)
            moved = 0
            for _ in range(5):
                snapshot = collect()
                check_rows(snapshot)
                for pid in frozen:
                    assert at_base(snapshot, pid) == {p: digest(p % 200 + 1) for p in range(300)}
                moved += snapshot.info["unknown"]["changed_pages"]
            assert moved > 0
    finally:
        for process in churning:
            process.kill()
            process.wait()


@needs_pfns
def test_check_says_who_has_opted_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, Any]:
        findings = check.check_procfs()
        assert findings.exit_code == 0
        assert [f.subject for f in findings.found] == ["kernel", "rights", "KSM", "memory", "time"]
        return {name: value for f in findings.found for name, value in f.facts.items()}

    with on_command(50) as (pids, execute):
        only(pids[:1], monkeypatch)
        before = found()
        execute(f"libc.madvise(ctypes.c_void_p({BASE}), ctypes.c_size_t(4096), 12)")
        after = found()
    assert (before["mergeable_vmas"], before["mergeable_processes"]) == (0, 0)
    assert (after["mergeable_vmas"], after["mergeable_processes"]) == (1, 1)
    assert after["anonymous_bytes"] > 50 * 4096
    assert after["seconds"] > 0


IOPRIO_GET, IOPRIO_CLASS_IDLE = 252, 3
HANGS_SECONDS = 600  # no bound on speed: a busy machine takes long
COLLECT_ONE = """
import os, runpy, signal, sys
from estimator.collect import load
from estimator.procfs import collect
pace, told = load.Pace.__call__, set()
def tell(self, read_bytes):  # each process that hashes writes its pid, once
    if os.getpid() not in told:
        told.add(os.getpid())
        os.write(1, b"%d\\n" % os.getpid())
    pace(self, read_bytes)
load.Pace.__call__ = tell
everything, pid, path = collect.read_processes, int(sys.argv[1]), sys.argv[2]
collect.read_processes = lambda: ([p for p in everything()[0] if p.pid == pid], 0)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
sys.argv = ["estimator", "collect", "--procfs", "--rate", "1", "-o", path]
runpy.run_module("estimator", run_name="__main__")
"""


@needs_pfns
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
    with ExitStack() as stack:  # side by side: most of the time of each is waiting
        # 205 MB: at 1 MB/s it never ends by itself
        pids, _ = stack.enter_context(on_command(50_000))
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", COLLECT_ONE, str(pids[0]), str(tmp_path / number.name)],
                    cwd=REPOSITORY,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
            for number in numbers
        ]
        try:
            workers = [hashing_workers_of(process) for process in processes]
            assert workers == [workers_of(process.pid) for process in processes]
            for pid in (
                *(process.pid for process in processes),
                *itertools.chain.from_iterable(workers),
            ):
                # it lets all others go first
                assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
                assert ctypes.CDLL(None).syscall(IOPRIO_GET, 1, pid) >> 13 == IOPRIO_CLASS_IDLE
            for process, number in zip(processes, numbers, strict=True):
                process.send_signal(number)
            stderr = [process.communicate(timeout=HANGS_SECONDS)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert [process.returncode for process in processes] == [130, 130, 130, -signal.SIGKILL]
    assert stderr[:3] == ["ksm-estimator: interrupted\n"] * 3
    wait_until(
        lambda: (
            not any(Path(f"/proc/{pid}").exists() for pid in itertools.chain.from_iterable(workers))
        )
    )
    assert list(tmp_path.iterdir()) == []


def hashing_workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The workers of ``process``, as soon as each of them and it hashes."""
    assert process.stdout is not None
    pids = {int(process.stdout.readline()) for _ in range(min(2, len(os.sched_getaffinity(0))))}
    return sorted(pids - {process.pid})


def workers_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_orders_of_anonymous_folios(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "_THP", tmp_path / "enabled")
    assert settings.thp_orders() is None
    modes = {64: "[always] inherit madvise never", 128: "always inherit madvise [never]"}
    modes |= {2048: "always [inherit] madvise never", 1024: "always inherit [madvise] never"}
    for kib, text in modes.items():
        (tmp_path / f"hugepages-{kib}kB").mkdir()
        (tmp_path / f"hugepages-{kib}kB/enabled").write_text(f"{text}\n")
    assert settings.thp_orders() == {"always": 1 << 4, "madvise": 1 << 8, "inherit": 1 << 9}

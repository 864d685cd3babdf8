"""From a kernel made by hand to a snapshot: the whole way, with a merged page in it."""

from __future__ import annotations

import pandas as pd
import pytest
from xxhash import xxh3_64_intdigest

from estimator.collect.further_hashes import Wanted
from estimator.errors import CannotAnswerError
from estimator.kernel.collect import collect
from estimator.kernel.target import Target
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag
from estimator.snapshot.schema import columns_of
from estimator.snapshot.snapshot import Snapshot
from tests.fake_kernel import FlatMemory
from tests.fake_processes import FakeProcesses

START = 0x7F00_0000_0000
MERGEABLE = 0x8000_0073
ANON_VMA = 0xFFFF_8880_0000_1000
MERGED_PFN, OWN_PFN, FILE_PFN = 0x200, 0x201, 0x202
PRESENT, RW = 1, 2


class Merged:
    """Two processes: page 0 of both is merged, page 1 of the first is its own, page 2 a file's."""

    def __init__(self) -> None:
        kernel = self.kernel = FakeProcesses()
        kernel.prog.main_module("kernel", create=True)
        kernel.global_("init_uts_ns", "uts_namespace", {"name.nodename": b"host\0"})
        kernel.integer("nr_cpu_ids", 1)
        kernel.global_("__cpu_online_mask", "cpumask", {"bits": [1]})
        kernel.array("__per_cpu_offset", [0])
        self.mms = [kernel.mm(), kernel.mm()]
        for pid, (mm, pages) in enumerate(zip(self.mms, (2, 1), strict=True), 1):
            kernel.task(pid, mm)
            kernel.spans(mm, (START, START + 0x8000, {"vm_flags": MERGEABLE, "anon_vma": ANON_VMA}))
            counter = mm + kernel.offset("mm_struct", "rss_stat") + kernel.sizeof("percpu_counter")
            zero = kernel.string(bytes(4))
            kernel.set("percpu_counter", counter, {"count": pages, "counters": zero})
            kernel.map(kernel.pgd(mm), START, MERGED_PFN << 12 | PRESENT)
        first = kernel.pgd(self.mms[0])
        kernel.map(first, START + 0x1000, OWN_PFN << 12 | PRESENT | RW)
        kernel.map(first, START + 0x2000, FILE_PFN << 12 | PRESENT)
        kernel.page(OWN_PFN, ("lru",), {"mapping": ANON_VMA | 1, "_mapcount.counter": 0})
        kernel.page(FILE_PFN, (), {"mapping": ANON_VMA, "_mapcount.counter": 0})
        for pfn, text in ((MERGED_PFN, b"same"), (OWN_PFN, b""), (FILE_PFN, b"file")):
            kernel.frame(pfn, text)
        self._stable_tree()

    def _stable_tree(self) -> None:
        kernel = self.kernel
        items = [
            kernel.new("ksm_rmap_item", {"mm": mm, "address": START | 0x201}) for mm in self.mms
        ]
        link = kernel.offset("ksm_rmap_item", "hlist")
        kernel.set("ksm_rmap_item", items[0], {"hlist.next": items[1] + link})
        fields = {"kpfn": MERGED_PFN, "hlist.first": items[0] + link, "rmap_hlist_len": 2}
        node = kernel.new("ksm_stable_node", fields)
        root = kernel.new("rb_root", {"rb_node": node})
        pointer = kernel.string(root.to_bytes(8, "little"))
        kernel.variable("root_stable_tree", "struct rb_root *", pointer)
        for name in ("ksm_pages_shared", "ksm_pages_sharing"):
            kernel.integer(name, 1)
        kernel.page(MERGED_PFN, (), {"mapping": node | 3, "_mapcount.counter": 1})

    def collect(self, wanted: Wanted | None = None) -> Snapshot:
        memory = FlatMemory(self.kernel.prog)
        target = Target(self.kernel.prog, memory, "core", "vmcore", "ELF")
        return collect(target, seed=7, wanted=wanted)


def test_a_merged_page_comes_through() -> None:
    snapshot = Merged().collect()
    frames, mappings = snapshot.frames, snapshot.mappings
    for name in ("processes", "vmas", "mappings", "frames"):
        assert list(getattr(snapshot, name)) == columns_of(name, ["parent_pid"]).names
    assert frames["pfn"].tolist() == [MERGED_PFN, OWN_PFN]
    hashes = [xxh3_64_intdigest(text.ljust(4096, b"\0"), 7) for text in (b"same", b"")]
    assert frames["hash"].tolist() == hashes
    assert frames["kind"].tolist() == [FrameKind.KSM, FrameKind.ANONYMOUS]
    assert frames["flags"].tolist() == [0, FrameFlag.LRU | FrameFlag.ZERO]
    assert mappings["frame_id"].tolist() == [0, 1, 0]
    assert mappings["page_index"].tolist() == [0, 1, 0]
    merged, writable = MappingFlag.MERGED, MappingFlag.WRITABLE
    assert mappings["flags"].tolist() == [merged, writable, merged]
    assert snapshot.processes["pid"].tolist() == [1, 2]
    assert snapshot.processes["cmdline"].isna().all()
    assert snapshot.info["host"] == "host"
    assert snapshot.info["kernel"]["release"] == "6.12.0"
    assert snapshot.info["kernel"]["uptime_seconds"] is None
    assert set(snapshot.info["unknown"].values()) == {0}
    assert snapshot.info["source"]["warnings"] == []


def test_further_hashes_come_beside_what_there_is_without_them() -> None:
    """An address of the first process in one page, of no process in the other."""
    merged = Merged()
    contents = {MERGED_PFN: START + 0x7FF8, OWN_PFN: START + (1 << 32)}
    for pfn, word in contents.items():
        merged.kernel.frame(pfn, b"same".ljust(8, b"\0") + word.to_bytes(8, "little"))
    plain, more = merged.collect(), merged.collect(Wanted(pieces=True, near=True))
    for name in ("processes", "vmas", "mappings", "frames", "stable_nodes", "stable_items"):
        table = getattr(plain, name)
        pd.testing.assert_frame_equal(table, getattr(more, name)[table.columns], obj=name)
    pages = [b"same".ljust(8, b"\0") + contents[pfn].to_bytes(8, "little") for pfn in contents]
    hashes = [xxh3_64_intdigest(page.ljust(4096, b"\0"), 7) for page in pages]
    without = xxh3_64_intdigest(b"same".ljust(4096, b"\0"), 7)
    assert more.frames["no_address_hash"].tolist() == [without, hashes[1]]
    empty = [xxh3_64_intdigest(bytes(size), 7) for size in (1024, 4096 - 128)]
    assert more.info["zero_piece_hash"] == empty[0]
    assert more.frames["piece_hash_3"].tolist() == [empty[0]] * 2
    assert more.frames["near_hash"].tolist() == [empty[1]] * 2


def test_what_the_kernel_counts_and_nobody_found_is_said() -> None:
    merged = Merged()
    merged.kernel.integer("ksm_pages_sharing", 5)
    merged.kernel.map(merged.kernel.pgd(merged.mms[0]), START + 0x1000, 0)
    info = merged.collect().info
    assert info["unknown"]["anonymous_pages"] == 1
    assert any("ksmd counts 5" in warning for warning in info["source"]["warnings"])


@pytest.mark.parametrize("lost", [False, True])
def test_the_kernels_own_clock_says_when_it_was(lost: bool) -> None:
    merged = Merged()
    base, asleep, shift = 7_000_000_000, 50_000_000_000, 8
    members = {"base": base, "xtime_nsec": 250_000_000 << shift, "shift": shift}
    fields = {f"timekeeper.tkr_mono.{name}": value for name, value in members.items()}
    clock = merged.kernel.new("tk_data", {**fields, "timekeeper.offs_boot": asleep}, apart=True)
    merged.kernel.variable("tk_core", "struct tk_data", clock)
    if lost:
        merged.kernel.lose(clock)
    assert merged.collect().info["kernel"]["uptime_seconds"] == (None if lost else 57.25)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"CRASHTIME=1700000000\n", "2023-11-14T22:13:20+00:00"),
        (b"CRASHTIME=99999999999999\n", None),
        (b"", None),
    ],
)
def test_a_dump_says_what_time_it_was(line: bytes, expected: str | None) -> None:
    merged = Merged()
    merged.kernel.text("VMCOREINFO", b"OSRELEASE=6.12.0\n" + line)
    assert merged.collect().info["kernel"]["wall_clock"] == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (bytes(16), None),  # nobody has read it in /proc yet
        (None, None),
    ],
)
def test_the_kernel_knows_its_boot_id(written: bytes | None, expected: str | None) -> None:
    merged = Merged()
    if written is not None:
        merged.kernel.text("sysctl_bootid", written)
    info = merged.collect().info
    assert info["boot_id"] == expected
    assert info["machine_id"] is None


def test_a_kernel_without_processes_can_not_answer() -> None:
    kernel = FakeProcesses()
    target = Target(kernel.prog, kernel.memory, "core", "vmcore", "ELF")
    with pytest.raises(CannotAnswerError, match="no process"):
        collect(target)

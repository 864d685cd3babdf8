"""Page tables, VMAs and their names of processes of a kernel made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from estimator.arrays import Columns
from estimator.collect.mappings import Mapped
from estimator.kernel import address_spaces
from estimator.kernel.address_spaces import AddressSpaces
from estimator.kernel.arch.x86_64 import Entries
from estimator.kernel.vmas import read_vmas
from estimator.snapshot.flags import FrameKind, MappingFlag
from estimator.snapshot.format import CONTENTS
from tests.fake_kernel import Fields
from tests.fake_processes import FakeProcesses

PRESENT, RW, DIRTY, PSE, PROT_NONE, SPECIAL = 1, 2, 1 << 6, 1 << 7, 1 << 8, 1 << 9
SAVED_DIRTY = 1 << 58
PFN_MASK = 0x000F_FFFF_FFFF_F000
ZERO_PFN = 0x555
ANON: Fields = {"anon_vma": 0xFFFF_8880_0000_1000, "vm_flags": 0x8000_0073}
START = 0x7F00_0000_0000


def swap_entry(type_: int) -> int:
    """A non-present entry with this __swp_type(), its offset inverted."""
    return type_ << 59 | PFN_MASK


class Space:
    """One process with ``pages`` pages of anonymous memory at ``START``."""

    def __init__(self, pages: int = 16, fields: Fields = ANON) -> None:
        self.kernel = FakeProcesses()
        self.kernel.integer("zero_pfn", ZERO_PFN)
        self.mm = self.kernel.mm()
        self.kernel.spans(self.mm, (START, START + (pages << 12), fields))

    def map(self, page: int, entry: int, level: int = 0) -> int:
        pgd = self.kernel.pgd(self.mm)
        return self.kernel.map(pgd, START + (page << 12), entry, level)

    def spaces(self) -> AddressSpaces:
        prog, memory = self.kernel.prog, self.kernel.memory
        mms = self.kernel.read_mms()
        return AddressSpaces(prog, memory, mms, read_vmas(prog, memory, mms))

    def walk(self) -> Mapped:
        return self.spaces().walk(lambda batches: None)


def rows(mapped: Mapped) -> list[tuple[int, ...]]:
    """vma, page, PFN, flags."""
    columns = (mapped.vma_id, mapped.page_index, mapped.pfn, mapped.flags)
    return list(zip(*(column[:].tolist() for column in columns), strict=True))


def test_a_row_for_each_page_with_its_flags() -> None:
    space = Space()
    entries = {
        2: (0x900 << 12 | PRESENT, 0),
        3: (0x901 << 12 | PRESENT | RW, MappingFlag.WRITABLE),
        4: (0x902 << 12 | PRESENT | RW | DIRTY, MappingFlag.WRITABLE | MappingFlag.DIRTY),
        5: (0x903 << 12 | PRESENT | SAVED_DIRTY, MappingFlag.DIRTY),
        7: ((0x904 << 12 ^ PFN_MASK) | PROT_NONE, MappingFlag.PROT_NONE),
    }
    for page, (entry, _) in entries.items():
        space.map(page, entry)
    space.map(8, 0x905 << 12 | PRESENT | SPECIAL)  # a PFN without a page
    space.map(40, 0x906 << 12 | PRESENT)  # behind the VMA
    found = space.walk()
    pfns = range(0x900, 0x905)
    expected = [(0, n, pfn, f) for (n, (_, f)), pfn in zip(entries.items(), pfns, strict=True)]
    assert rows(found) == expected
    assert not any(count.any() for count in found.counts.values())


def test_ksm_zero_pages_are_the_dirty_ones() -> None:
    """is_ksm_zero_pte(): what ksmd maps to the zero page is pte_mkdirty()."""
    space = Space()
    for page, entry in ((1, DIRTY), (2, DIRTY), (3, SAVED_DIRTY), (4, 0)):
        space.map(page, ZERO_PFN << 12 | PRESENT | SPECIAL | entry)
    found = space.walk()
    assert not len(found.pfn)
    assert found.counts["ksm_zero_pages"].tolist() == [3]
    assert found.counts["zero_pages"].tolist() == [1]


@pytest.mark.parametrize(("areas", "swapped", "others"), [(28, 2, 1), (1, 1, 2), (None, 0, 3)])
def test_swap_types_behind_the_areas_are_migration_and_the_like(
    areas: int | None, swapped: int, others: int
) -> None:
    space = Space()
    if areas is not None:
        space.kernel.integer("nr_swapfiles", areas)
    for page, type_ in enumerate((0, 27, 30)):
        space.map(page, swap_entry(type_))
    counts = space.walk().counts
    assert counts["swap_pages"].tolist() == [swapped]
    assert counts["nonpresent_pages"].tolist() == [others]


def test_a_huge_entry_is_its_pieces() -> None:
    space = Space(pages=1024)
    space.map(512, 0x40_0000 << 12 | PRESENT | RW | PSE, level=1)
    found = space.walk()
    flags = MappingFlag.HUGE | MappingFlag.WRITABLE
    assert rows(found) == [(0, 512 + n, 0x40_0000 + n, flags) for n in range(512)]


def test_a_lost_table_is_unknown() -> None:
    space = Space(pages=1024)
    table = space.map(512, 0x900 << 12 | PRESENT)
    space.map(0, 0x901 << 12 | PRESENT)
    space.kernel.lose(0xFFFF_8880_0000_0000 + (table << 12))
    found = space.walk()
    assert rows(found) == [(0, 0, 0x901, 0)]
    assert found.counts["unknown_pages"].tolist() == [512]


@pytest.mark.parametrize("fields", [{**ANON, "anon_vma": 0}, {**ANON, "vm_flags": 0x40_0000}])
def test_only_vmas_with_anonymous_memory_are_walked(fields: Fields) -> None:
    """No anon_vma: only page cache. hugetlb: no page tables that KSM looks at."""
    space = Space(fields=fields)
    space.map(1, 0x900 << 12 | PRESENT)
    assert rows(space.walk()) == []


def test_two_processes_use_the_same_addresses() -> None:
    space = Space()
    space.map(1, 0x900 << 12 | PRESENT)
    first = space.mm
    space.mm = space.kernel.mm()
    span = (START - 0x1000, START + 0x4000)
    space.kernel.spans(space.mm, (0x1000, 0x2000, {}), (*span, {**ANON, "vm_flags": 0x2000}))
    space.map(1, 0x901 << 12 | PRESENT)
    found = space.walk()
    assert rows(found) == [(0, 1, 0x900, 0), (2, 2, 0x901, 0)]
    table = space.spaces().columns
    assert first != space.mm
    assert table["mm_id"].tolist() == [0, 1, 1]
    assert table["mergeable"].tolist() == [True, False, False]
    assert table["locked"].tolist() == [False, False, True]
    assert table["has_anon_vma"].tolist() == [True, False, True]


# names


def table_of(kernel: FakeProcesses, mm: int, *vmas: tuple[int, int, Fields]) -> Columns:
    """The columns of these VMAs (start and end in pages) of ``mm``."""
    kernel.spans(mm, *((start << 12, end << 12, members) for start, end, members in vmas))
    mms = kernel.read_mms()
    spaces = AddressSpaces(
        kernel.prog, kernel.memory, mms, read_vmas(kernel.prog, kernel.memory, mms)
    )
    return spaces.columns


def in_a_row(members: list[Fields]) -> list[tuple[int, int, Fields]]:
    """VMAs of one page each."""
    return [(n, n + 1, fields) for n, fields in enumerate(members)]


def test_heap_and_stack() -> None:
    """vma_is_initial_heap() and vma_is_initial_stack()."""
    brk: Fields = {"start_brk": 0x2000, "brk": 0x5000, "start_stack": 0x9000}
    vmas: list[tuple[int, int, Fields]] = [
        (1, 2, {}),
        (2, 3, {}),
        (4, 5, {}),
        (5, 6, {}),
        (8, 9, {}),
        (9, 10, {}),
        (10, 11, {}),
    ]
    kernel = FakeProcesses()
    names = table_of(kernel, kernel.mm(brk), *vmas)["name"].tolist()
    assert names == ["", "[heap]", "[heap]", "", "[stack]", "[stack]", ""]


class Files:
    """A root file system, and one mounted at /mnt."""

    def __init__(self, kernel: FakeProcesses) -> None:
        self.kernel = kernel
        self.root = self.dentry(b"/", 0)
        self.rootfs = self.mount(self.root)
        self.inner = self.dentry(b"/", 0)
        self.inner_mount = self.mount(self.inner, self.rootfs, self.dentry(b"mnt", self.root))

    def dentry(self, name: bytes, parent: int) -> int:
        dentry = self.kernel.new("dentry", {"d_name.name": self.kernel.string(name)})
        self.kernel.set("dentry", dentry, {"d_parent": parent or dentry})
        return dentry

    def mount(self, root: int, parent: int = 0, point: int = 0) -> int:
        mount = self.kernel.new("mount", {"mnt.mnt_root": root, "mnt_mountpoint": point or root})
        self.kernel.set("mount", mount, {"mnt_parent": parent or mount})
        return mount

    def file(self, mount: int, dentry: int, *, inode_flags: int = 0) -> int:
        path = {"f_path.mnt": mount + self.kernel.offset("mount", "mnt"), "f_path.dentry": dentry}
        inode = self.kernel.new("inode", {"i_flags": inode_flags})
        return self.kernel.new("file", {**path, "f_inode": inode})


def test_names_of_files_and_of_anonymous_memory() -> None:
    kernel = FakeProcesses()
    files = Files(kernel)
    usr = files.dentry(b"usr", files.root)
    deep = files.dentry(b"lib.so", files.dentry(b"lib", files.inner))
    loop = files.dentry(b"x", usr)
    kernel.set("dentry", loop, {"d_parent": files.dentry(b"y", loop)})
    members: list[Fields] = [
        {"vm_file": files.file(files.rootfs, usr)},
        {"vm_file": files.file(files.inner_mount, deep)},
        {"vm_file": files.file(files.rootfs, loop)},
        {"vm_file": 0xFFFF_8888_0000_0000},
        {"anon_name": 0xFFFF_8888_0000_0000},
        {"vm_file": files.file(files.rootfs, usr)},
    ]
    table = table_of(kernel, kernel.mm(), *in_a_row(members))
    assert table["name"].tolist() == [
        "/usr",
        "/mnt/lib/lib.so",
        "[unreadable]",
        "[unreadable]",
        "[anon]",
        "/usr",
    ]


def test_names_given_to_anonymous_memory() -> None:
    """prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME)."""
    kernel = FakeProcesses()
    name = kernel.new("anon_vma_name", {"name": b"pool\0"})
    table = table_of(kernel, kernel.mm(), (0, 1, {"anon_name": name}), (1, 2, {}))
    assert table["name"].tolist() == ["[anon:pool]", ""]


def test_mounts_that_lead_back_to_themselves_end() -> None:
    kernel = FakeProcesses()
    files = Files(kernel)
    kernel.set("mount", files.rootfs, {"mnt_parent": files.inner_mount})
    file = files.file(files.inner_mount, files.dentry(b"a", files.inner))
    table = table_of(kernel, kernel.mm(), (0, 1, {"vm_file": file}))
    assert table["name"].tolist() == ["[unreadable]"]


def test_what_ksm_can_not_merge() -> None:
    """vma_ksm_compatible(): special VMAs, and files with S_DAX."""
    kernel = FakeProcesses()
    files = Files(kernel)
    dax = files.file(files.rootfs, files.dentry(b"pmem", files.root), inode_flags=1 << 13)
    plain = files.file(files.rootfs, files.dentry(b"data", files.root), inode_flags=0xFFF)
    members: list[Fields] = [
        *({"vm_flags": flag} for flag in (0x73, 0x8, 0x80, 0x400, 0x4000, 0x4_0000, 0x1000_0000)),
        {"vm_file": dax},
        {"vm_file": plain},
    ]
    table = table_of(kernel, kernel.mm(), *in_a_row(members))
    assert table["compatible"].tolist() == [True, *[False] * 7, True]
    assert [why is None for why in table["excluded_by"]] == table["compatible"].tolist()


def test_what_other_memory_each_vma_maps() -> None:
    """By the file system of its file; not where KSM would refuse it all the same."""
    kernel = FakeProcesses()
    kernel.integer("zero_pfn", ZERO_PFN)
    files = Files(kernel)

    def file(vm_flags: int, magic: int, mode: int = 0o100600, flags: int = 0) -> Fields:
        sb = kernel.new("super_block", {"s_magic": magic})
        inode = kernel.new("inode", {"i_sb": sb, "i_mode": mode, "i_flags": flags})
        found = files.file(files.rootfs, files.root)
        kernel.set("file", found, {"f_inode": inode})
        return {"vm_file": found, "vm_flags": vm_flags}

    tmpfs, ext4, hugetlbfs, secretmem = 0x0102_1994, 0xEF53, 0x9584_58F6, 0x5345_434D
    members: list[Fields] = [
        {"vm_flags": 0x73},
        file(0x80FB, tmpfs),
        file(0x80FB | 0x400, tmpfs),
        file(0x80FB | 0x4_0000, tmpfs),
        file(0x44_00FB, hugetlbfs),
        file(0x71, ext4),
        file(0x71, ext4, flags=1 << 13),
        file(0x71, ext4, mode=0o020600),
        file(0xFB, secretmem),
        {"vm_flags": 0xFB, "vm_file": 0xFFFF_8888_0000_0000},
    ]
    mm = kernel.mm()
    kernel.spans(mm, *((first << 12, end << 12, of) for first, end, of in in_a_row(members)))
    mms = kernel.read_mms()
    vmas = read_vmas(kernel.prog, kernel.memory, mms)
    found = {
        contents: AddressSpaces(kernel.prog, kernel.memory, mms, vmas, contents).kinds.tolist()
        for contents in CONTENTS
    }
    assert found == {
        "anonymous": [0] * 10,
        "all": [0, FrameKind.SHMEM, 0, 0, FrameKind.HUGETLB, 0, 0, 0, 0, 0],
        "all,file": [0, FrameKind.SHMEM, 0, 0, FrameKind.HUGETLB, FrameKind.FILE, 0, 0, 0, 0],
    }


def test_pages_far_into_a_vma_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_spaces, "first_variable", lambda *_: 0)
    count = address_spaces._EntryCounts({}, np.array([3], np.uint32))
    far, start = 1 << 32, 1000
    pages = [5, far - 1, far + 5, far + 6, far + 7]
    entries = Entries(
        key=np.array(pages, np.uint64) + np.uint64(start),
        range_index=np.zeros(5, np.int64),
        value=np.array([0x1001, 0x2001, 0x3001, 0x4001, 0x1], np.uint64),  # the last: zero page
        huge=np.zeros(5, np.bool_),
    )
    found = count.mapped(entries, np.array([start], np.uint64))
    assert found.vma_id.tolist() == [3] * 4
    assert found.page_index.tolist() == pages[:4]
    assert found.pfn.tolist() == [1, 2, 3, 4]
    assert count.zero.tolist() == [1]

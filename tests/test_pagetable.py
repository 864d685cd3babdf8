"""Page tables built by hand, entry by entry, against what the walk finds in them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from drgn import Architecture, Platform, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.arrays import KEY_PAGE_BITS
from estimator.kernel.arch import Entries
from estimator.kernel.memory import Memory
from estimator.kernel.pagetable import PageTables, Ranges
from estimator.snapshot.flags import Unknown
from tests import arm64_tables as arm64

PRESENT, RW, DIRTY, PSE, PROTNONE, SPECIAL = 1, 2, 1 << 6, 1 << 7, 1 << 8, 1 << 9
SAVED_DIRTY = 1 << 58
PFN_MASK = 0x000F_FFFF_FFFF_F000
ENCRYPTED = 1 << 47
PMD_PAGES = 512


class FakeString:
    def __init__(self, value: bytes) -> None:
        self.value = value

    def string_(self) -> bytes:
        return self.value


class FakeInt:
    def __init__(self, value: int) -> None:
        self.value = value

    def value_(self) -> int:
        return self.value


class Tables:
    """Frames of page tables: ``set`` puts an entry at a page and makes the tables above it."""

    page_shift = 12
    platform = Platform(Architecture.X86_64)

    def __init__(self, levels: int, encrypted: bool = False) -> None:
        self.levels = levels
        self.mask = ENCRYPTED if encrypted else 0
        self.frames: dict[int, Any] = {}
        self.lost: set[int] = set()
        self.roots = [self._new(), self._new()]

    def _new(self) -> int:
        pfn = 1000 + len(self.frames)
        self.frames[pfn] = np.zeros(512, np.uint64)
        return pfn

    def address(self, pfn: int) -> int:
        """Where a table lies."""
        return pfn << 12

    def set(self, mm: int, page: int, value: int, level: int = 0) -> int:
        """Returns the frame of the table that holds the entry."""
        table = self.roots[mm]
        for depth in range(self.levels - 1, level, -1):
            index = page >> (9 * depth) & 511
            if not self.frames[table][index]:
                self.frames[table][index] = self._new() << 12 | PRESENT | RW | self.mask
            table = (int(self.frames[table][index]) & PFN_MASK & ~self.mask) >> 12
        self.frames[table][page >> (9 * level) & 511] = value | (self.mask if value & 1 else 0)
        return table

    def __contains__(self, name: str) -> bool:
        return name == "sme_me_mask"

    def __getitem__(self, name: str) -> Any:
        if name == "sme_me_mask":
            return FakeInt(self.mask)
        return FakeString(b"NUMBER(pgtable_l5_enabled)=%d\n" % (self.levels == 5))


class FakeMemory:
    """Reads the frames of ``Tables``; what is lost comes as rubbish that is said to be unknown."""

    def __init__(self, tables: Tables | arm64.Tables) -> None:
        self.tables = tables
        self.page_shift = tables.page_shift
        self.page_bytes = 1 << tables.page_shift

    def physical(self, addresses: Any) -> Any:
        return addresses

    def frames(self, pfns: Any) -> Any:
        data = np.zeros((len(pfns), self.page_bytes), np.uint8)
        unknown = np.zeros(len(pfns), np.uint8)
        for row, pfn in enumerate(pfns.tolist()):
            if pfn in self.tables.lost or pfn not in self.tables.frames:
                unknown[row] = Unknown.UNREADABLE
                data[row] = 0xFF
            else:
                data[row] = self.tables.frames[pfn].view(np.uint8)
        return data, unknown

    def words(self, physical: Any) -> Any:
        data, unknown = self.frames(physical >> np.uint64(self.tables.page_shift))
        slot = (physical & np.uint64(self.page_bytes - 1)) >> np.uint64(3)
        return data.view(np.uint64)[np.arange(len(data)), slot.astype(np.int64)], unknown == 0


def rows(found: list[Entries]) -> dict[tuple[int, int], tuple[Any, ...]]:
    """(mm, page) -> (present, pfn, prot_none, writable, dirty, huge, range)."""
    result = {}
    for e in found:
        for key, *facts in zip(
            *(e.key, e.present, e.pfn, e.prot_none, e.writable, e.dirty, e.huge, e.range_index),
            strict=True,
        ):
            mm, page = int(key >> KEY_PAGE_BITS), int(key) & ((1 << 45) - 1)
            assert (mm, page) not in result
            result[mm, page] = tuple(int(fact) for fact in facts)
    return result


pages = st.one_of(
    st.integers(0, 3000),
    st.integers(1 << 34, (1 << 34) + 2000),
    st.integers((1 << 35) - 9, (1 << 35) - 1),
)
entry = st.tuples(
    st.integers(0, 1),  # mm
    pages,
    st.integers(1, (1 << 34) - 1),  # pfn
    st.sampled_from(["plain", "readonly", "saved-dirty", "none", "swap"]),
)


def encode(pfn: int, kind: str) -> int:
    """As pfn_pte() and __swp_entry() do: not-present entries have their PFN bits inverted."""
    if kind == "plain":
        return pfn << 12 | PRESENT | RW | DIRTY
    if kind == "readonly":
        return pfn << 12 | PRESENT
    if kind == "saved-dirty":
        return pfn << 12 | PRESENT | SAVED_DIRTY
    if kind == "none":
        return (pfn << 12 ^ PFN_MASK) | PROTNONE
    return 3 << 59 | (pfn << 12 ^ PFN_MASK)


def walk(
    tables: Tables | arm64.Tables,
    ranges: list[tuple[int, int, int]],
    hugetlb: list[bool] | None = None,
) -> tuple[PageTables, dict[tuple[int, int], tuple[Any, ...]]]:
    keys = [(mm << 45 | first, mm << 45 | end) for mm, first, end in sorted(ranges)]
    start, end = np.array(keys, np.uint64).reshape(-1, 2).T
    walker = PageTables(
        cast(Program, tables),
        cast(Memory, FakeMemory(tables)),
        Ranges(start.copy(), end.copy(), None if hugetlb is None else np.array(hugetlb)),
    )
    roots = np.array([tables.address(root) for root in tables.roots], np.uint64)
    found = rows(list(walker.entries(walker.leaves(np.arange(2, dtype=np.uint64), roots))))
    return walker, found


@settings(max_examples=80, deadline=None)
@given(
    st.lists(entry, max_size=60, unique_by=lambda e: e[:2]), st.sampled_from([4, 5]), st.booleans()
)
def test_every_entry_in_a_range_is_found_as_it_was_written(
    entries: list[tuple[int, int, int, str]], levels: int, encrypted: bool
) -> None:
    tables = Tables(levels, encrypted)
    for mm, page, pfn, kind in entries:
        tables.set(mm, page, encode(pfn, kind))
    ranges = [(mm, first, end) for mm in (0, 1) for first, end in ((100, 1700), (1 << 34, 1 << 35))]
    _, found = walk(tables, ranges)
    expected = {}
    for mm, page, pfn, kind in entries:
        number = [i for i, (m, a, b) in enumerate(ranges) if m == mm and a <= page < b]
        if number:
            expected[mm, page] = (
                kind != "swap",
                pfn,
                kind == "none",
                kind == "plain",
                kind in ("plain", "saved-dirty"),
                False,
                number[0],
            )
    assert found == {key: tuple(map(int, facts)) for key, facts in expected.items()}


@pytest.mark.parametrize("prot_none", [False, True])
def test_a_huge_entry_is_512_mappings(prot_none: bool) -> None:
    tables = Tables(4)
    pfn = 0x1200
    value = (pfn << 12 ^ PFN_MASK) | PROTNONE | PSE if prot_none else pfn << 12 | PRESENT | RW | PSE
    tables.set(0, 512, value, level=1)
    tables.set(0, 1024, encode(77, "plain"))
    _, found = walk(tables, [(0, 600, 1100)])
    assert found[0, 600] == (1, pfn + 88, prot_none, not prot_none, 0, 1, 0)
    assert found[0, 1023] == (1, pfn + 511, prot_none, not prot_none, 0, 1, 0)
    assert found[0, 1024][:2] == (1, 77)
    assert len(found) == 1024 - 600 + 1


def test_a_huge_entry_that_is_not_present_counts_the_pages_of_the_range() -> None:
    tables = Tables(4)
    tables.set(0, 512, 30 << 59 | 0x5000, level=1)  # a migration entry
    walker, found = walk(tables, [(0, 500, 600), (0, 700, 710)])
    assert found == {}
    assert walker.nonpresent_pages.tolist() == [600 - 512, 10]


def test_a_table_that_can_not_be_read_is_unknown_not_empty() -> None:
    tables = Tables(5)
    lost = tables.set(0, 512, encode(5, "plain"))
    tables.set(0, 1024, encode(6, "plain"))
    tables.lost.add(lost)
    walker, found = walk(tables, [(0, 500, 1100), (1, 0, 10)])
    assert set(found) == {(0, 1024)}
    assert walker.unreadable_pages.tolist() == [512, 0]


@given(
    st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 700)), min_size=1, max_size=20),
    st.lists(st.integers(0, 3), unique=True),
    st.sampled_from([0, 1]),
)
def test_slots_and_rows_in_ranges(
    gaps_and_sizes: list[tuple[int, int]], tables: list[int], shift: int
) -> None:
    edges = np.cumsum(np.array(gaps_and_sizes, np.uint64).reshape(-1)).reshape(-1, 2)
    ranges = Ranges(edges[:, 0].copy(), edges[:, 1].copy())
    of_page = {
        page: number
        for number, (start, end) in enumerate(edges.tolist())
        for page in range(start, end)
    }
    key = np.array(sorted(tables), np.uint64) * np.uint64(512 << shift)
    row, slot = ranges.slots(key, np.uint64(shift), 512)
    expected = [
        (n, first)
        for n, table in enumerate(key.tolist())
        for first in range(table, table + (512 << shift), 1 << shift)
        if any(page in of_page for page in range(first, first + (1 << shift)))
    ]
    assert list(zip(row.tolist(), slot.tolist(), strict=True)) == expected
    keys = np.unique(np.concatenate([slot, edges.reshape(-1)]))
    rows_inside, which = ranges.find(keys)
    assert dict(zip(keys[rows_inside].tolist(), which.tolist(), strict=True)) == {
        page: of_page[page] for page in keys.tolist() if page in of_page
    }


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_lost_table_above_the_last_level_is_unknown_too(level: int) -> None:
    tables = Tables(5)
    lost = tables.set(0, 512, encode(5, "plain"))
    tables.set(1, 512, encode(6, "plain"))
    for _ in range(level):  # up to the table that leads there
        entry = lost << 12 | PRESENT | RW
        lost = next(pfn for pfn, entries in tables.frames.items() if entry in entries)
    tables.lost.add(lost)
    walker, found = walk(tables, [(0, 500, 530), (0, 600, 610), (1, 512, 520)])
    assert set(found) == {(1, 512)}
    assert walker.unreadable_pages.tolist() == [530 - 500, 10, 0]


def test_a_table_that_leads_back_to_itself_ends() -> None:
    tables = Tables(4)
    root = tables.roots[0]
    tables.frames[root][0] = root << 12 | PRESENT | RW
    walker, found = walk(tables, [(0, 0, 1 << 18)])
    assert found == {}
    assert walker.unreadable_pages.sum() > 0


@pytest.mark.parametrize("prot_none", [False, True])
def test_a_gigantic_entry_is_read_in_hugetlb_alone(prot_none: bool) -> None:
    tables = Tables(4)
    pfn, first = 3 << 18, 1 << 18
    value = (pfn << 12 ^ PFN_MASK) | PROTNONE | PSE if prot_none else pfn << 12 | PRESENT | RW | PSE
    tables.set(0, first, value, level=2)
    tables.set(0, first - 7, encode(77, "plain"))
    tables.set(0, 2 * first, encode(78, "plain"))
    ranges = [(0, 0, first), (0, first, 2 * first), (0, 2 * first, 2 * first + 512)]
    walker, found = walk(tables, ranges, [False, True, False])
    facts = (prot_none, not prot_none, 0, 1, 1)
    assert [found[0, first + n] for n in (0, 700, (1 << 18) - 1)] == [
        (1, pfn + n, *facts) for n in (0, 700, (1 << 18) - 1)
    ]
    assert len(found) == (1 << 18) + 2
    assert not walker.nonpresent_pages.any()
    assert set(walk(tables, ranges)[1]) == {(0, first - 7), (0, 2 * first)}


def test_tables_that_hugetlb_shares_are_found_in_every_process() -> None:
    """huge_pmd_share(): both processes lead to one table of 2 MiB pages."""
    tables = Tables(4)
    first, pfn = 1 << 18, 0x1200
    shared = tables.set(0, first, pfn << 12 | PRESENT | RW | PSE, level=1)
    tables.set(1, first, shared << 12 | PRESENT | RW, level=2)
    ranges = [(mm, first, 2 * first) for mm in (0, 1)]
    walker, found = walk(tables, ranges, [True, True])
    assert [found[mm, first + 5][1] for mm in (0, 1)] == [pfn + 5] * 2
    assert not walker.unreadable_pages.any()
    walker, found = walk(tables, ranges, [False, False])  # anywhere else it is damage
    assert {mm for mm, _ in found} == {0}
    assert walker.unreadable_pages.tolist() == [0, first]

"""ksmd's lists of rmap_items in a kernel made by hand, and what damage does to them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from estimator.arrays import Columns, page_keys
from estimator.collect.tables import Table
from estimator.kernel.mm_slots import mm_slots
from estimator.kernel.scan_visits import Visits, add_visits, read_visits
from estimator.packed import Packed
from estimator.snapshot.flags import AHEAD
from tests.fake_processes import FakeProcesses
from tests.fake_structs import STRUCTS

START = 0x7F00_0000_0000
STABLE, UNSTABLE = 0x200, 0x100
PAGES = 8


class Lists:
    """Two mms on ksmd's list, each with a VMA of ``PAGES`` pages, and one that is not on it."""

    def __init__(self) -> None:
        kernel = self.kernel = FakeProcesses()
        self.mms = [kernel.mm(), kernel.mm(), kernel.mm(listed=False)]
        self.slots = [slot.address for slot in mm_slots(kernel.prog)]

    def items(self, mm: int, *items: tuple[int, int, int], flags: int = 0) -> list[int]:
        """Give mm number ``mm`` rmap_items: page, age, remaining_skips."""
        made = [
            self.kernel.new(
                "ksm_rmap_item",
                {
                    "mm": self.mms[mm],
                    "address": START + (page << 12) | flags,
                    "age": age,
                    "remaining_skips": skips,
                },
            )
            for page, age, skips in items
        ]
        self.kernel.set("ksm_mm_slot", self.slots[mm], {"rmap_list": made[0]})
        for item, following in pairwise(made):
            self.kernel.set("ksm_rmap_item", item, {"rmap_list": following})
        return made

    def cursor(self, mm: int, page: int) -> None:
        """The scan under way comes to this page next."""
        fields = {"mm_slot": self.slots[mm], "address": START + (page << 12)}
        self.kernel.set("ksm_scan", self.kernel.ksm_scan, fields)

    def read(self, first: int = 0) -> Visits:
        """What is read, where the mms before the ``first`` are not known."""
        mms = np.array(self.mms[first:], np.uint64)
        found = read_visits(self.kernel.prog, self.kernel.memory, mms)
        assert found is not None
        return found

    def column(self) -> list[list[int]]:
        """The column ``visits`` of all pages of each mm."""
        mappings: Table = {
            "vma_id": Packed.of(np.repeat(np.arange(3, dtype=np.uint32), PAGES)),
            "page_index": Packed.of(np.tile(np.arange(PAGES, dtype=np.uint64), 3)),
        }
        vmas: Columns = {
            "mm_id": np.arange(3, dtype=np.uint32),
            "start": np.full(3, START, np.uint64),
        }
        add_visits(mappings, vmas, self.read(), 12)
        if "visits" not in mappings:
            return []
        rows: list[list[int]] = mappings["visits"][:].reshape(3, PAGES).tolist()
        return rows


def test_ages_and_skips_as_visits() -> None:
    """As should_skip_rmap_item() leaves them behind: from age 14 on the skips tell."""
    lists = Lists()
    lists.items(0, (0, 1, 0), (1, 2, 0), (2, 9, 4), (4, 14, 8), (5, 15, 7), (6, 255, 0), (7, 23, 8))
    lists.items(1, (0, 4, 1), (1, 4, 1), flags=UNSTABLE | 7)
    visits = [[1, 2, 9, 0, 14, 15, 22, 14], [4, 4, 0, 0, 0, 0, 0, 0], [0] * PAGES]
    assert lists.column() == visits
    assert lists.read().pages.tolist() == [1, 1, 1, 1, 1, 1, 1, 2]
    assert lists.read().unreadable == 0


def test_pages_on_stable_nodes_are_left_out() -> None:
    lists = Lists()
    lists.items(0, (0, 9, 4), (1, 9, 4), flags=STABLE)
    assert lists.column() == []


def test_where_ksmd_never_was_there_is_no_column() -> None:
    assert Lists().column() == []


def test_the_scan_under_way_comes_to_the_rest_of_its_mm_and_to_those_behind() -> None:
    lists = Lists()
    lists.items(0, (0, 3, 0), (6, 2, 0))
    lists.cursor(0, 5)
    rest = [AHEAD, AHEAD | 2, AHEAD]
    assert lists.column() == [[3, 0, 0, 0, 0, *rest], [AHEAD] * PAGES, [0] * PAGES]
    lists.cursor(1, 7)
    assert lists.column() == [[3, 0, 0, 0, 0, 0, 2, 0], [0] * 7 + [AHEAD], [0] * PAGES]


def test_a_scan_in_an_mm_that_is_not_known_comes_to_all_of_the_next() -> None:
    lists = Lists()
    lists.cursor(0, 5)
    key, end = page_keys(np.array([0, 1]), np.zeros(2, np.uint64)).tolist()
    assert lists.read(first=1).ahead == (key, end)
    assert lists.read(first=2).ahead is None


@pytest.mark.parametrize("damage", ["lost", "loop", "other mm", "odd"])
def test_a_list_that_breaks_off_is_said(damage: str) -> None:
    lists = Lists()
    kernel = lists.kernel
    first, second, third = lists.items(0, (0, 3, 0), (1, 3, 0), (2, 3, 0))
    lost = kernel.new("ksm_rmap_item", apart=True)
    kernel.lose(lost)
    link = {"lost": lost, "loop": first, "other mm": second, "odd": third + 4}[damage]
    kernel.set("ksm_rmap_item", second, {"rmap_list": link})
    if damage == "other mm":
        kernel.set("ksm_rmap_item", second, {"mm": lists.mms[1], "rmap_list": third})
    known = 1 if damage == "other mm" else 2
    assert lists.column()[0] == [3] * known + [0] * (PAGES - known)
    assert lists.read().unreadable == 1


def test_an_item_across_the_end_of_a_page() -> None:
    lists = Lists()
    kernel = lists.kernel
    edge = kernel.new("ksm_rmap_item", apart=True) + 4096 - 24
    kernel.write(edge, bytes(kernel.sizeof("ksm_rmap_item")))
    fields: dict[str, int] = {
        "mm": lists.mms[0],
        "address": START + 0x3000,
        "age": 5,
        "remaining_skips": 1,
    }
    kernel.set("ksm_rmap_item", edge, fields)
    kernel.set("ksm_mm_slot", lists.slots[0], {"rmap_list": edge})
    assert lists.column()[0] == [0, 0, 0, 5, 0, 0, 0, 0]
    before = edge - 256  # in the same page
    kernel.set("ksm_rmap_item", before, fields | {"address": START + 0x1000, "rmap_list": edge})
    kernel.set("ksm_mm_slot", lists.slots[0], {"rmap_list": before})
    assert lists.column()[0] == [0, 5, 0, 5, 0, 0, 0, 0]


def test_kernels_without_smart_scan_have_no_visits() -> None:
    structs = STRUCTS | {"ksm_rmap_item": STRUCTS["ksm_rmap_item"].replace(" age:u8", "")}
    kernel = FakeProcesses(structs)
    assert read_visits(kernel.prog, kernel.memory, np.zeros(0, np.uint64)) is None

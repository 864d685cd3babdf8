"""VMAs in maple trees made by hand, and the list of older kernels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from estimator.kernel.processes import reread_roots
from estimator.kernel.vmas import Vmas, read_vmas, vm_flag_values
from tests.fake_processes import ARANGE, LEAF, NO_LIMIT, RANGE, FakeProcesses
from tests.fake_structs import STRUCTS, STRUCTS_6_1

LISTED = STRUCTS | {
    "mm_struct": STRUCTS["mm_struct"].replace("mm_mt:maple_tree", "mmap:ptr"),
    "vm_area_struct": STRUCTS["vm_area_struct"] + " vm_next:ptr",
}


def read(kernel: FakeProcesses) -> Vmas:
    return read_vmas(kernel.prog, kernel.memory, kernel.read_mms())


def spans(vmas: Vmas) -> list[tuple[int, int, int]]:
    """mm, and the first and last page."""
    columns = (vmas.mm, vmas.start >> np.uint64(12), vmas.end >> np.uint64(12))
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("structs", [STRUCTS, STRUCTS_6_1], ids=["6.12", "6.1"])
def test_vmas_of_two_mms(structs: Mapping[str, str]) -> None:
    kernel = FakeProcesses(structs)
    first, second = kernel.mm(), kernel.mm()
    members = {"vm_flags": 0x8000_0073, "anon_vma": 1 << 60, "vm_file": 2, "anon_name": 3}
    kernel.spans(second, (0x1000, 0x3000, members), (0x5000, 0x6000, {}))
    kernel.spans(first, (0, 0x1000, {}), (0x7F00_0000_0000, 0x7F00_0000_2000, {}))
    kernel.mm()  # without any
    found = read(kernel)
    assert spans(found) == [(0, 0, 1), (0, 0x7_F000_0000, 0x7_F000_0002), (1, 1, 3), (1, 5, 6)]
    row = [getattr(found, name)[2] for name in ("flags", "anon_vma", "file", "anon_name")]
    assert row == [0x8000_0073, 1 << 60, 2, 3]
    assert found.unreadable == 0


def test_a_tree_of_three_levels() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm()
    leaves = []
    for number in range(20):
        base = 0x10_0000 * number
        vma = kernel.vma(mm, base + 0x1000, base + 0x2000)
        last = base + 0xF_FFFF if number < 19 else NO_LIMIT
        leaf = kernel.node(LEAF, [(base + 0xFFF, 0), (base + 0x1FFF, vma), (last, 0)])
        leaves.append((last, leaf))
    below = [kernel.node(ARANGE, leaves[:10]), kernel.node(RANGE, leaves[10:])]
    kernel.root(mm, kernel.node(ARANGE, [(leaves[9][0], below[0]), (NO_LIMIT, below[1])]))
    found = read(kernel)
    assert spans(found) == [(0, 0x100 * n + 1, 0x100 * n + 2) for n in range(20)]
    assert found.unreadable == 0


def test_behind_a_pivot_that_is_zero_all_is_stale() -> None:
    """A pivot of 0 behind the first slot ends a node: mas_data_end()."""
    kernel = FakeProcesses()
    mm = kernel.mm()
    vma, last, stale = (kernel.vma(mm, at << 12, at + 1 << 12) for at in (0, 1, 2))
    slots = [(0xFFF, vma), (0, last), (0x2FFF, stale), (0x3FFF, 0xDEAD_0000)]
    kernel.root(mm, kernel.node(LEAF, slots))
    found = read(kernel)
    assert spans(found) == [(0, 0, 1), (0, 1, 2)]
    assert found.unreadable == 0


def test_behind_the_limit_of_a_node_all_is_stale() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm()
    low, high, stale = (kernel.vma(mm, at << 12, at + 1 << 12) for at in (0, 2, 1))
    left = kernel.node(LEAF, [(0xFFF, low), (0x1FFF, 0), (0x1FFF, stale)])
    right = kernel.node(LEAF, [(0x2FFF, high), (NO_LIMIT, 0), (0, stale)])
    kernel.root(mm, kernel.node(ARANGE, [(0x1FFF, left), (NO_LIMIT, right)]))
    found = read(kernel)
    assert spans(found) == [(0, 0, 1), (0, 2, 3)]
    assert found.unreadable == 0


def test_a_damaged_pivot_does_not_widen_a_node() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm()
    low, stale = (kernel.vma(mm, at << 12, at + 1 << 12) for at in (0, 2))
    leaf = kernel.node(LEAF, [(0xFFF, low), (0x1FFF, 0), (0x2FFF, stale)])
    middle = kernel.node(RANGE, [(0x8FFF, leaf)])
    kernel.root(mm, kernel.node(ARANGE, [(0x1FFF, middle), (NO_LIMIT, 0)]))
    assert spans(read(kernel)) == [(0, 0, 1)]


def test_a_pivot_of_zero_does_not_end_a_node_in_its_first_slot() -> None:
    """Address 0 alone may lie in the first slot."""
    kernel = FakeProcesses()
    mm = kernel.mm()
    kernel.root(mm, kernel.node(LEAF, [(0, 0), (0xFFF, 0), (0x1FFF, kernel.vma(mm, 4096, 8192))]))
    assert spans(read(kernel)) == [(0, 1, 2)]


def test_a_full_leaf_has_no_pivot_for_its_last_slot() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm()
    slots = [((n + 1 << 12) - 1, kernel.vma(mm, n << 12, n + 1 << 12)) for n in range(16)]
    kernel.root(mm, kernel.node(LEAF, slots))
    assert spans(read(kernel)) == [(0, n, n + 1) for n in range(16)]


def test_what_cannot_be_a_node_or_a_vma_is_lost() -> None:
    kernel = FakeProcesses()
    mm, other = kernel.mm(), kernel.mm()
    good = kernel.vma(mm, 0x1000, 0x2000)
    bad = [
        kernel.vma(other, 0x2000, 0x3000),  # of another mm
        kernel.vma(mm, 0x4000, 0x3000),  # ends first
        kernel.vma(mm, 0x4800, 0x5000),  # not on a page
        kernel.vma(mm, 0x5000, (1 << 56) + 4096),  # beyond user space
        0xFFFF_8888_0000_0000,  # not there
    ]
    kernel.root(
        mm, kernel.node(LEAF, [(0x1000 * n + 0xFFF, v) for n, v in enumerate([good, *bad])])
    )
    found = read(kernel)
    assert spans(found) == [(0, 1, 2)]
    assert found.unreadable == len(bad)


def test_dead_unreadable_and_looping_nodes_are_lost() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm()
    leaf = kernel.node(LEAF, [(0xFFF, kernel.vma(mm, 0, 4096)), (0x1FFF, 0)])
    dead, lost = (
        kernel.node(LEAF, [(NO_LIMIT, kernel.vma(mm, 8192, 12288))], apart=True) for _ in range(2)
    )
    kernel.set("maple_range_64", dead & ~0xFF, {"parent": dead & ~0xFF})  # ma_dead_node()
    kernel.lose(lost)
    unknown_kind = leaf & ~0x78 | 9 << 3
    last = [leaf, dead, lost, leaf, unknown_kind]
    kernel.root(mm, kernel.node(ARANGE, [(0x1000 * n + 0xFFF, v) for n, v in enumerate(last)]))
    found = read(kernel)
    assert spans(found) == [(0, 0, 1)]
    assert found.unreadable == 4


def test_the_list_of_older_kernels() -> None:
    kernel = FakeProcesses(LISTED)
    mm, damaged = kernel.mm(), kernel.mm()
    third = kernel.vma(mm, 0x7000, 0x8000)
    second = kernel.vma(mm, 0x3000, 0x4000, {"vm_next": third})
    kernel.set("mm_struct", mm, {"mmap": kernel.vma(mm, 0x1000, 0x3000, {"vm_next": second})})
    back = kernel.vma(damaged, 0x1000, 0x2000)
    first = kernel.vma(damaged, 0x3000, 0x4000, {"vm_next": back})
    kernel.set("mm_struct", damaged, {"mmap": first})
    kernel.set("vm_area_struct", back, {"vm_next": first})
    found = read(kernel)
    assert spans(found) == [(0, 1, 3), (0, 3, 4), (0, 7, 8), (1, 3, 4)]
    assert found.unreadable == 1


def test_a_running_system_is_read_until_the_number_of_vmas_is_right() -> None:
    kernel = FakeProcesses()
    mm = kernel.mm()
    vmas = [kernel.vma(mm, n << 12, n + 1 << 12) for n in range(2)]
    kernel.root(mm, kernel.node(LEAF, [(0xFFF, vmas[0]), (NO_LIMIT, 0)]))
    mms = kernel.read_mms()
    kernel.root(mm, kernel.node(LEAF, [(0xFFF, vmas[0]), (0x1FFF, vmas[1]), (NO_LIMIT, 0)]))
    kernel.set("mm_struct", mm, {"map_count": 2})
    kernel.memory.moving = True
    found = read_vmas(kernel.prog, kernel.memory, mms)
    assert spans(found) == [(0, 0, 1), (0, 1, 2)]
    assert found.unreadable == 0


@pytest.mark.parametrize(("map_count", "lost"), [(3, 2), (2, 1), (1, 0)])
def test_vmas_that_an_mm_counts_and_no_look_finds_are_lost(map_count: int, lost: int) -> None:
    kernel = FakeProcesses()
    mm, other = kernel.mm(), kernel.mm()
    kernel.spans(mm, (0x1000, 0x2000, {}))
    kernel.spans(other, (0x1000, 0x2000, {}))
    kernel.set("mm_struct", mm, {"map_count": map_count})
    kernel.memory.moving = True
    found = read(kernel)
    assert spans(found) == [(0, 1, 2), (1, 1, 2)]
    assert found.unreadable == lost


def test_a_tree_that_moves_at_every_look_is_counted_by_its_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another VMA comes between reading the tree and reading the count, each time."""
    kernel = FakeProcesses()
    mm = kernel.mm()
    kernel.spans(mm, (0, 0x1000, {}))
    mms = kernel.read_mms()
    counts = itertools.count(2)

    def reread(*arguments: Any) -> Any:
        kernel.spans(mm, *[(n << 12, n + 1 << 12, {}) for n in range(next(counts))])
        return reread_roots(*arguments)

    monkeypatch.setattr("estimator.kernel.vmas.reread_roots", reread)
    monkeypatch.setattr("estimator.kernel.vmas._LOOKS", 2)
    kernel.memory.moving = True
    found = read_vmas(kernel.prog, kernel.memory, mms)
    assert len(found.start) == 3
    assert found.unreadable == 1


def test_an_mm_that_is_gone_after_the_last_look_lacks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = FakeProcesses()
    mm = kernel.mm()
    kernel.spans(mm, (0x1000, 0x2000, {}))
    kernel.set("mm_struct", mm, {"map_count": 2})
    mms = kernel.read_mms()
    looks = itertools.count(1)

    def reread(*arguments: Any) -> Any:
        if next(looks) == 3:
            kernel.set("mm_struct", mm, {"mm_users.counter": 0})
        return reread_roots(*arguments)

    monkeypatch.setattr("estimator.kernel.vmas.reread_roots", reread)
    monkeypatch.setattr("estimator.kernel.vmas._LOOKS", 2)
    kernel.memory.moving = True
    assert read_vmas(kernel.prog, kernel.memory, mms).unreadable == 0


def test_vmas_of_some_mms() -> None:
    kernel = FakeProcesses()
    for pages in (1, 2, 3):
        kernel.spans(kernel.mm(), (0, pages << 12, {}))
    found = replace(read(kernel), unreadable=5).of_mms(np.array([True, False, True]))
    assert spans(found) == [(0, 0, 1), (1, 0, 3)]
    assert found.unreadable == 5


def test_the_values_of_vm_flags_are_the_kernels() -> None:
    kernel = FakeProcesses()
    assert vm_flag_values(kernel.prog)["mergeable"] == 0x8000_0000
    endless = (1 << 42, b"x" * 1000)  # as where the memory is damaged
    entries = [(1 << 40, b"mergeable"), (1 << 41, b"droppable"), endless, (0, b"")]
    table = b"".join(
        mask.to_bytes(8, "little") + (kernel.string(name) if name else 0).to_bytes(8, "little")
        for mask, name in entries
    )
    kernel.variable("vmaflag_names", "struct trace_print_flags [4]", kernel.string(table))
    values = vm_flag_values(kernel.prog)
    assert (values["mergeable"], values["droppable"], values["hugetlb"]) == (
        1 << 40,
        1 << 41,
        1 << 22,
    )
    assert [len(name) for name, value in values.items() if value == 1 << 42] == [32]

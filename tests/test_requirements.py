"""Kernels that lack something, and those that say it otherwise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from drgn import Program

from estimator.errors import CannotAnswerError
from estimator.kernel import page_array, requirements
from estimator.kernel.address_spaces import _EntryCounts
from estimator.kernel.page_array import PageArray
from estimator.kernel.requirements import require_ksm
from tests.small_kernel import Bytes, Layout, program

BASE = 0xFFFF_EA00_0000_0000
PAGE: Layout = {
    "flags.f": (0, "u64"),
    "compound_info": (8, "u64"),
    "mapping": (24, "u64"),
    "_mapcount.counter": (48, "i32"),
    "_refcount.counter": (52, "i32"),
}
FOLIO: Layout = {
    "flags.f": (0, "u64"),
    "mapping": (24, "u64"),
    "_refcount.counter": (52, "i32"),
    "_flags_1": (64, "u64"),
    "_large_mapcount.counter": (80, "i32"),
    "_entire_mapcount.counter": (88, "i32"),
    "_pincount.counter": (92, "i32"),
}


def kernel(which: int, *lacking: str, release: str = "6.12.1") -> Program:
    """A kernel with the newest (0) or oldest (-1) of all alternatives, without ``lacking``."""
    members: dict[str, list[str]] = {}
    folio = requirements._FOLIO if which == 0 else requirements._COMPOUND_PAGE
    for need in (*requirements._NEEDS, folio, requirements._MM_SLOT):
        tag = need.types[which].removeprefix("struct ")
        members.setdefault(tag, []).extend(paths[which] for paths in need.members)
    structs: dict[str, tuple[int, Layout]] = {}
    for tag, paths in members.items():
        layout = {path: (8 * n, "u64") for n, path in enumerate(paths) if path not in lacking}
        if tag not in lacking:
            structs[tag] = (8 * len(paths), layout)
    names = [names[which] for names in requirements._VARIABLES]
    variables = dict.fromkeys([*names, "ksm_mm_head"], BASE)
    for name in lacking:
        variables.pop(name, None)
    slot = requirements._MM_SLOT.types[which].removeprefix("struct ")
    return program(structs, variables, objects={"ksm_mm_head": slot}, release=release)


def test_what_is_needed_is_written_with_bars() -> None:
    assert requirements._need("new|old", "a.b|a", "c") == requirements.Need(
        ("struct new", "struct old"), (("a.b", "a"), ("c",))
    )


@pytest.mark.parametrize("which", [0, -1])
def test_a_kernel_that_has_all_is_supported(which: int) -> None:
    require_ksm(kernel(which))


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("_pincount.counter", "no `_pincount.counter` in `struct folio`"),
        ("slot.mm_node", "no `slot.mm_node` or `mm_list` in `struct ksm_mm_slot`"),
        ("mapping", "no `mapping` in `struct page`, no `mapping` in `struct folio`"),
        ("vm_flags", "no `vm_flags` or `__vm_flags` in `struct vm_area_struct`"),
        ("ksm_stable_node", "no `struct ksm_stable_node` or `struct stable_node`"),
        ("zero_page_pfn", "no variable `zero_page_pfn` or `zero_pfn`"),
        ("root_stable_tree", "no variable `root_stable_tree`"),
    ],
)
def test_what_a_kernel_lacks_is_named(lacking: str, words: str) -> None:
    with pytest.raises(CannotAnswerError) as caught:
        require_ksm(kernel(0, lacking, release="5.10.0-39-amd64"))
    assert caught.value.message == (
        f"this kernel (5.10.0-39-amd64) has {words}: not supported yet; supported are 5.10 to 7.3"
    )
    assert caught.value.exit_code == 5


def test_a_kernel_without_ksm_is_told_so() -> None:
    with pytest.raises(CannotAnswerError, match="built without CONFIG_KSM"):
        require_ksm(kernel(0, "ksm_mm_head"))


@pytest.mark.parametrize("masked", [True, False])
def test_tail_pages_lead_to_their_head(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames 4 to 7 are a folio of order 2, 9 is small; as in 7.1 with and without a mask."""
    zone: Layout = {"vmemmap_tails" if masked else "name": (0, "u64")}
    structs = {"page": (64, PAGE), "folio": (192, FOLIO), "zone": (8, zone)}
    prog = program(structs, {"vmemmap": BASE + 64 * 100}, {"PG_head": 6})
    monkeypatch.setattr(
        page_array, "page_table_format", lambda _: SimpleNamespace(bits_per_level=9)
    )
    memory = Bytes(prog, BASE, 64 * 101)
    memory.put(BASE + 64 * 100, BASE)
    for pfn in (4, 5, 6, 7, 9):
        memory.put(BASE + 64 * pfn + 48, -1, 4)
    head = BASE + 64 * 4
    memory.put(head, 1 << 6)
    memory.put(head + 24, 0xFFFF_8880_0000_0001)
    memory.put(head + 64, 2)
    memory.put(head + 88, -1, 4)
    word = (1 << 64) - (64 << 2) | 1 if masked else head | 1  # GENMASK(63, order + 6) | 1
    for pfn in (5, 6, 7):
        memory.put(BASE + 64 * pfn + 8, word)
    found = PageArray(prog, memory).read(np.array([4, 5, 6, 7, 9], np.uint64))
    assert found.head_pfn.tolist() == [4, 4, 4, 4, 9]
    assert found.ok.all()
    assert found.order.tolist() == [2, 2, 2, 2, 0]
    assert found.anonymous.tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("name", ["zero_pfn", "zero_page_pfn"])
def test_the_zero_page_has_two_names(name: str) -> None:
    prog = program({}, {name: BASE})
    Bytes(prog, BASE, 8).put(BASE, 77)
    assert _EntryCounts(prog, np.zeros(1, np.uint32))._zero_pfn == 77

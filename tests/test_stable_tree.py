"""Stable nodes in the tree, in chains, and on the list of those that await another tree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from estimator.arrays import Columns
from estimator.kernel.cross_checks import contradictions
from estimator.kernel.page_array import PageArray
from estimator.kernel.stable_tree import StableTree, read_stable_tree
from estimator.packed import packed
from tests.small_kernel import Bytes, Layout, program

NODE: Layout = {
    "node.rb_right": (8, "u64"),
    "node.rb_left": (16, "u64"),
    "hlist_dup.next": (8, "u64"),
    "list.next": (24, "u64"),
    "hlist.first": (40, "u64"),
    "kpfn": (48, "u64"),
    "rmap_hlist_len": (56, "i32"),
}
ITEM: Layout = {
    "mm": (16, "u64"),
    "address": (24, "u64"),
    "oldchecksum": (32, "i32"),
    "hlist.next": (48, "u64"),
}
BASE = 0xFFFF_8880_0000_0000
ROOTS, MIGRATE, TREES, COUNT = BASE + 0x100, BASE + 0x110, BASE + 0x120, BASE + 0x130
MM = BASE + 0x10_0000


class Kernel:
    """Nodes and items, put into memory one by one."""

    def __init__(self) -> None:
        structs = {
            "ksm_stable_node": (64, NODE),
            "ksm_rmap_item": (64, ITEM),
            "rb_root": (8, {"rb_node": (0, "u64")}),
        }
        variables = {"root_stable_tree": ROOTS, "migrate_nodes": MIGRATE, "ksm_nr_node_ids": COUNT}
        self.prog = program(structs, variables, pointers={"root_stable_tree": "rb_root"})
        self.memory = Bytes(self.prog, BASE, 0x2000)
        self._free = BASE + 0x200
        self.node_of_frame: dict[int, int] = {}
        self.mapping_of_frame: dict[int, int] = {}
        self.memory.put(ROOTS, TREES)
        self.memory.put(COUNT, 1)
        self.memory.put(MIGRATE, MIGRATE)

    def stable_node(self, kpfn: int, items: int, numa_node: int) -> int:
        """A live node with ``items`` rmap_items; in no tree yet."""
        node = self._new()
        self.memory.put(node + 48, kpfn)
        self.memory.put(node + 56, items, 4)
        self.node_of_frame[kpfn] = numa_node
        self.mapping_of_frame[kpfn] = node | 3
        link = node + 40
        for number in range(items):
            item = self._new()
            self.memory.put(link, item + 48)
            self.memory.put(item + 16, MM)
            self.memory.put(item + 24, (kpfn << 20 | number << 12) | 0x200)
            link = item + 48
        return node

    def migrate(self, *nodes: int) -> None:
        """migrate_nodes holds these."""
        link = MIGRATE
        for node in nodes:
            self.memory.put(link, node + 24)
            link = node + 24
        self.memory.put(link, MIGRATE)

    def read(self) -> StableTree:
        return read_stable_tree(
            self.prog, self.memory, cast(PageArray, self), np.array([MM], np.uint64)
        )

    def read_any(self, pfns: Any) -> Any:
        """As PageArray."""
        frames = pfns.tolist()
        return SimpleNamespace(
            ok=np.ones(len(frames), np.bool_),
            mapping=np.array([self.mapping_of_frame[pfn] for pfn in frames], np.uint64),
            node=np.array([self.node_of_frame[pfn] for pfn in frames], np.uint16),
        )

    def _new(self) -> int:
        self._free += 64
        return self._free


@pytest.fixture
def kernel() -> Kernel:
    """One node in the tree of NUMA node 0."""
    made = Kernel()
    made.memory.put(TREES, made.stable_node(10, items=2, numa_node=0))
    return made


def contradicted(tree: StableTree, shared: int, sharing: int) -> list[str]:
    columns = ("mm_id", "pfn", "frame_id", "mapcount", "kind")
    none: Columns = {name: np.zeros(0, np.uint32) for name in columns}
    size = len(tree.nodes["pfn"])
    frame_id = np.ma.MaskedArray(np.zeros(size, np.uint32), np.ones(size, np.bool_))
    whole = StableTree(
        tree.nodes | {"frame_id": frame_id}, tree.items, tree.pages_shared, tree.pages_sharing, 0
    )
    counters = {"pages_shared": shared, "pages_sharing": sharing}
    return contradictions(np.zeros(0, np.int64), none, packed(none), packed(none), whole, counters)


def test_nobody_migrates(kernel: Kernel) -> None:
    tree = kernel.read()
    assert tree.nodes["pfn"].tolist() == [10]
    assert tree.unreadable == 0
    assert contradicted(tree, 1, 1) == []


def test_migrating_nodes_are_nodes_like_others(kernel: Kernel) -> None:
    kernel.migrate(kernel.stable_node(20, 3, numa_node=1), kernel.stable_node(30, 1, numa_node=0))
    tree = kernel.read()
    assert tree.nodes["pfn"].tolist() == [10, 20, 30]
    assert tree.nodes["chain_id"].tolist() == [-1, -1, -1]
    assert tree.nodes["node"].tolist() == [0, 1, 0]  # where their frames are now
    assert tree.nodes["live"].all()
    assert tree.items["node_id"].tolist() == [0, 0, 1, 1, 1, 2]
    assert (tree.pages_shared, tree.pages_sharing) == (3, 3)
    assert tree.unreadable == 0
    assert contradicted(tree, 3, 3) == []


def test_counters_are_compared_while_nodes_migrate(kernel: Kernel) -> None:
    kernel.migrate(kernel.stable_node(20, 3, numa_node=1))
    found = contradicted(kernel.read(), 3, 3)
    assert [text.split(":")[0] for text in found] == [
        "the stable tree holds 2 pages_shared, ksmd counts 3"
    ]


def test_a_damaged_list_ends_and_is_told(kernel: Kernel) -> None:
    one, two = kernel.stable_node(20, 1, numa_node=0), kernel.stable_node(30, 1, numa_node=0)
    kernel.migrate(one, two)
    kernel.memory.put(two + 24, one + 24)  # back to itself
    tree = kernel.read()
    assert tree.unreadable == 1
    assert tree.nodes["pfn"].tolist() == [10, 20, 30]
    kernel.memory.put(two + 24, 0xDEAD_0000_0000_0100)
    tree = kernel.read()
    assert tree.unreadable == 1
    assert tree.nodes["pfn"].tolist() == [10, 20, 30]

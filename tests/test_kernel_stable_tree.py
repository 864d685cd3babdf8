"""The stable tree of a kernel made by hand: nodes, chains, items, and what damage does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest

from estimator.arrays import Columns
from estimator.kernel.page_array import PageArray
from estimator.kernel.stable_tree import StableTree, read_stable_tree
from tests.fake_kernel import FakeKernel, Fields
from tests.fake_structs import STRUCTS, STRUCTS_6_1

CHAIN = -1024  # STABLE_NODE_CHAIN
STABLE_FLAG = 0x200  # in the low bits of rmap_item.address, beside seqnr
MMS = [0xFFFF_8880_0030_0000, 0xFFFF_8880_0010_0000, 0xFFFF_8880_0020_0000]  # in mm_id order


class Trees:
    """The stable trees of a kernel, one per NUMA node."""

    def __init__(self, structs: Mapping[str, str] = STRUCTS, trees: int = 1) -> None:
        self.kernel = FakeKernel(structs)
        old = "stable_node" in structs
        self.node_tag = "stable_node" if old else "ksm_stable_node"
        self.item_tag = "rmap_item" if old else "ksm_rmap_item"
        self.roots = self.kernel.string(bytes(8 * trees))
        pointer = self.kernel.string(self.roots.to_bytes(8, "little"))
        self.kernel.variable("root_stable_tree", "struct rb_root *", pointer)
        self.kernel.integer("ksm_nr_node_ids", trees)
        self.kernel.empty_list(self.kernel.global_("migrate_nodes", "list_head"))

    def node(self, pfn: int, items: Sequence[int] = (), fields: Fields | None = None) -> int:
        """A stable node of the frame ``pfn`` with the ``items`` on it."""
        fields = {"kpfn": pfn, "rmap_hlist_len": len(items), **(fields or {})}
        node = self.kernel.new(self.node_tag, fields)
        self.link(node, "hlist.first", items, self.kernel.offset(self.item_tag, "hlist"))
        self.kernel.page(pfn, (), {"mapping": node | 3})
        return node

    def chain(self, dups: Sequence[int]) -> int:
        """The head of a chain of nodes."""
        head = self.kernel.new(self.node_tag, {"rmap_hlist_len": CHAIN})
        offset = self.kernel.offset(self.node_tag, "hlist_dup")
        self.link(head, "hlist.first", dups, offset)
        return head

    def link(self, node: int, first: str, entries: Sequence[int], offset: int) -> None:
        """Put ``entries`` on the hlist of ``node``."""
        if entries:
            self.kernel.set(self.node_tag, node, {first: entries[0] + offset})
        for entry, following in pairwise(entries):
            self.kernel.set("hlist_node", entry + offset, {"next": following + offset})

    def item(self, mm: int, address: int, *, checksum: int = 0, apart: bool = False) -> int:
        """An rmap_item."""
        fields: Fields = {"mm": mm, "address": address | STABLE_FLAG, "oldchecksum": checksum}
        return self.kernel.new(self.item_tag, fields, apart=apart)

    def root(self, node: int, tree: int = 0) -> None:
        """Make ``node`` the root of a tree."""
        self.kernel.write(self.roots + 8 * tree, node.to_bytes(8, "little"))

    def read(self) -> StableTree:
        """What is read, with the mm_structs ``MMS``."""
        kernel = self.kernel
        pages = PageArray(kernel.prog, kernel.memory)
        return read_stable_tree(kernel.prog, kernel.memory, pages, np.array(MMS, np.uint64))


def rows_of(table: Columns, names: Sequence[str]) -> list[list[int]]:
    return [list(row) for row in zip(*(table[name].tolist() for name in names), strict=True)]


def test_nodes_of_a_tree_and_the_items_on_them() -> None:
    trees = Trees()
    left = trees.node(7, [trees.item(MMS[2], 0x5000, checksum=99), trees.item(MMS[0], 0x6000)])
    right = trees.node(9)
    trees.root(trees.node(8, fields={"node.rb_left": left, "node.rb_right": right}))
    found = trees.read()
    assert found.nodes["pfn"].tolist() == [8, 7, 9]
    assert found.nodes["chain_id"].tolist() == [-1, -1, -1]
    assert found.nodes["live"].all()
    rows = rows_of(found.items, ["node_id", "mm_id", "address", "checksum"])
    assert rows == [[1, 2, 0x5000, 99], [1, 0, 0x6000, 0]]
    assert (found.pages_shared, found.pages_sharing, found.unreadable) == (1, 1, 0)


@pytest.mark.parametrize("structs", [STRUCTS, STRUCTS_6_1], ids=["6.12", "6.1"])
def test_a_chain_is_no_node_but_its_dups_are(structs: Mapping[str, str]) -> None:
    trees = Trees(structs)
    dups = [
        trees.node(20 + n, [trees.item(MMS[1], 0x1000 * (10 * n + m)) for m in range(n + 1)])
        for n in range(3)
    ]
    head = trees.chain(dups)
    trees.root(head)
    single = trees.node(30, [trees.item(MMS[1], 0x9_0000)])
    trees.kernel.set(trees.node_tag, head, {"node.rb_right": single})
    found = trees.read()
    assert found.nodes["pfn"].tolist() == [30, 20, 21, 22]
    assert found.nodes["chain_id"].tolist() == [-1, 0, 0, 0]
    assert found.nodes["live"].all()
    assert found.items["node_id"].tolist() == [0, 1, 2, 2, 3, 3, 3]
    assert found.items["address"].tolist()[:3] == [0x9_0000, 0, 0xA000]
    assert (found.pages_shared, found.pages_sharing, found.unreadable) == (4, 3, 0)


def test_two_chains_in_trees_of_two_numa_nodes() -> None:
    trees = Trees(trees=3)
    trees.root(trees.chain([trees.node(1), trees.node(2)]), 0)
    trees.root(trees.chain([trees.node(3)]), 2)
    found = trees.read()
    assert found.nodes["pfn"].tolist() == [1, 2, 3]
    assert found.nodes["chain_id"].tolist() == [0, 0, 1]
    assert found.nodes["node"].tolist() == [0, 0, 2]


def test_ages_where_the_kernel_has_them() -> None:
    for structs, age in ((STRUCTS, 5), (STRUCTS_6_1, 0)):
        trees = Trees(structs)
        item = trees.item(MMS[0], 0)
        if age:
            trees.kernel.set(trees.item_tag, item, {"age": age})
        trees.root(trees.node(1, [item]))
        assert trees.read().items["age"].tolist() == [age]


def test_the_index_of_a_page_is_no_age_and_no_checksum() -> None:
    """7.3: linear_page_index stands in their place."""
    tag = "ksm_rmap_item"
    trees = Trees(STRUCTS | {tag: f"{STRUCTS[tag]} linear_page_index:u64@40"})
    item = trees.item(MMS[0], 0x5000, checksum=7)
    trees.kernel.set(trees.item_tag, item, {"linear_page_index": 0x3_0000_0005})
    trees.root(trees.node(1, [item]))
    items = trees.read().items
    assert rows_of(items, ["address", "age", "checksum"]) == [[0x5000, 0, 0]]


def test_a_node_whose_frame_is_another_page_now_is_not_live() -> None:
    trees = Trees()
    below = trees.node(2)
    node = trees.node(1, fields={"node.rb_left": below})
    trees.root(node)
    trees.kernel.page(1, (), {"mapping": node | 1})
    trees.kernel.page(2, (), {"mapping": node | 3})
    assert trees.read().nodes["live"].tolist() == [False, False]


def test_items_of_mms_that_have_ended_count_but_are_not_shown() -> None:
    trees = Trees()
    trees.root(trees.node(1, [trees.item(0xFFFF_8880_0000_0100, 0), trees.item(MMS[1], 0x1000)]))
    found = trees.read()
    assert found.items["mm_id"].tolist() == [1]
    assert (found.pages_shared, found.pages_sharing) == (1, 1)


def test_no_tree_at_all() -> None:
    found = Trees().read()
    assert not len(found.nodes["pfn"])
    assert not len(found.items["mm_id"])
    assert (found.pages_shared, found.pages_sharing, found.unreadable) == (0, 0, 0)


def test_lists_and_trees_that_lead_back_to_themselves_end() -> None:
    trees = Trees()
    items = [trees.item(MMS[0], 0x1000 * n) for n in range(5)]
    node = trees.node(1, items)
    offset = trees.kernel.offset("ksm_rmap_item", "hlist")
    trees.kernel.set("hlist_node", items[4] + offset, {"next": items[2] + offset})
    trees.root(node)
    found = trees.read()
    assert found.unreadable == 1
    assert set(found.items["address"]) == {0, 0x1000, 0x2000, 0x3000, 0x4000}
    trees = Trees()
    root = trees.node(1)
    left = trees.node(2, fields={"node.rb_left": root, "node.rb_right": root})
    trees.kernel.set("ksm_stable_node", root, {"node.rb_left": left})
    trees.root(root)
    found = trees.read()
    assert sorted(found.nodes["pfn"]) == [1, 2]
    assert found.unreadable > 0


def test_what_is_lost_is_counted() -> None:
    trees = Trees()
    items = [trees.item(MMS[0], 0x1000 * n, apart=n == 1) for n in range(3)]
    lost_node = 0xFFFF_8888_0000_0000
    trees.root(trees.node(1, items, {"node.rb_right": lost_node}))
    trees.kernel.lose(items[1])
    found = trees.read()
    assert found.unreadable == 2
    assert found.items["address"].tolist() == [0]  # what hangs behind the lost one is lost, too

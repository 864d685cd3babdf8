"""What ksmd has merged already: the stable nodes, their chains and their rmap_items.

Sources: struct ksm_stable_node, ksm_rmap_item and the notes above them in mm/ksm.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.arrays import Columns, Words, find
from estimator.kernel.layout import first_type, has_member, offset, struct_dtype
from estimator.kernel.memory import Memory
from estimator.kernel.memory.intervals import first_of_each
from estimator.kernel.page_array import PageArray

_STABLE_NODE_CHAIN = -1024  # rmap_hlist_len of the head of a chain
_MAPPING_KSM = np.uint64(3)
_NULL = np.uint64(0)
_NO_TREE = np.uint16(0xFFFF)
_MOST_TREES = 1 << 10  # MAX_NUMNODES
_DEEPEST_TREE = 64  # 2 * log2(nodes)


@dataclass(frozen=True)
class StableTree:
    """``nodes``: those of ``stable_nodes`` (without frame_id). ``items``: of ``stable_items``.

    ``pages_shared``, ``pages_sharing``: as ksmd counts them, with the items of mms that have
    ended. ``unreadable``: nodes, items.
    """

    nodes: Columns
    items: Columns
    pages_shared: int
    pages_sharing: int
    unreadable: int


def read_stable_tree(prog: Program, memory: Memory, pages: PageArray, mms: Words) -> StableTree:
    """The stable nodes with their items.

    ``mms``: addresses of the mm_structs, in mm_id order. Items of other mms are left out.
    """
    reader = _Reader(prog, memory)
    address, nodes, chain, tree = reader.nodes()
    info = pages.read_any(nodes["kpfn"])
    table = {
        "node_id": np.arange(len(nodes), dtype=np.uint32),
        "chain_id": chain,
        "pfn": nodes["kpfn"].astype(np.uint64),
        "node": np.where(tree == _NO_TREE, info.node, tree),
        "live": info.ok & (info.mapping == (address | _MAPPING_KSM)),
    }
    node, items = reader.items(nodes["hlist"])
    shared = len(np.unique(node))
    return StableTree(
        nodes=table,
        items=_item_table(node, items, mms, memory.page_shift),
        pages_shared=shared,
        pages_sharing=len(node) - shared,
        unreadable=reader.unreadable,
    )


class _Reader:
    def __init__(self, prog: Program, memory: Memory) -> None:
        self._prog = prog
        self._memory = memory
        self.unreadable = 0
        self._node_type = first_type(prog, "struct ksm_stable_node", "struct stable_node")
        self._node = _node_dtype(prog, self._node_type)
        self._item_type = first_type(prog, "struct ksm_rmap_item", "struct rmap_item")
        self._item = _item_dtype(prog, self._item_type)

    def nodes(
        self,
    ) -> tuple[Words, npt.NDArray[Any], npt.NDArray[np.int32], npt.NDArray[np.uint16]]:
        """All stable nodes that hold a frame: address, struct, chain (-1: none), NUMA node.

        Of nodes whose frame has moved to another NUMA node, which await their way into its tree,
        the NUMA node is _NO_TREE. They are in no chain.
        """
        address, node, tree = self._trees()
        awaiting_address, awaiting = self._migrating()
        is_chain = node["length"] == _STABLE_NODE_CHAIN
        heads = node["hlist"][is_chain]
        dup_offset = offset(self._prog, self._node_type, "hlist_dup")
        chain, dup_address, dups = self._lists(heads, dup_offset, self._node, "hlist_dup")
        single = ~is_chain
        none = np.full(int(single.sum()), -1, np.int32)
        no_chain, no_tree = (
            np.full(len(awaiting), value, dtype)
            for value, dtype in ((-1, np.int32), (_NO_TREE, np.uint16))
        )
        addresses = np.concatenate([address[single], dup_address, awaiting_address])
        once = first_of_each(addresses)  # one may move while we read, or a damaged list loop
        return (
            addresses[once],
            np.concatenate([node[single], dups, awaiting])[once],
            np.concatenate([none, chain.astype(np.int32), no_chain])[once],
            np.concatenate([tree[single], tree[is_chain][chain], no_tree])[once],
        )

    def items(self, first: Words) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """The rmap_items of nodes whose hlists start at ``first``, and of which row there."""
        link = offset(self._prog, self._item_type, "hlist")
        node, _, items = self._lists(first, link, self._item, "next")
        return node, items

    def _trees(self) -> tuple[Words, npt.NDArray[Any], npt.NDArray[np.uint16]]:
        """The nodes of root_stable_tree[], level by level."""
        roots = self._prog["root_stable_tree"]
        count = int(self._prog["ksm_nr_node_ids"]) if "ksm_nr_node_ids" in self._prog else 1
        count = min(max(count, 1), _MOST_TREES)
        address = np.array([int(roots[nid].rb_node) for nid in range(count)], np.uint64)
        tree = np.flatnonzero(address).astype(np.uint16)
        address = address[address != 0]
        parts = [(address[:0], np.empty(0, self._node), tree[:0])]
        for _ in range(_DEEPEST_TREE):
            if not len(address):
                break
            node, ok = self._memory.structs(address, self._node)
            self.unreadable += int((~ok).sum())
            parts.append((address[ok], node[ok], tree[ok]))
            below = np.concatenate([node["left"], node["right"]])
            tree = np.concatenate([tree, tree])[below != 0]
            address = below[below != 0]
            once = first_of_each(address)  # a damaged tree may lead back to itself
            self.unreadable += int((~once).sum())
            address, tree = address[once], tree[once]
        addresses, nodes, trees = (np.concatenate(part) for part in zip(*parts, strict=True))
        once = first_of_each(addresses)
        return addresses[once], nodes[once], trees[once]

    def _migrating(self) -> tuple[Words, npt.NDArray[Any]]:
        """The nodes of the list migrate_nodes: address, struct."""
        head = self._prog["migrate_nodes"].address_of_().value_()
        first, ok = self._memory.structs(np.array([head], np.uint64), np.dtype([("next", "<u8")]))
        self.unreadable += int((~ok).sum())
        link = offset(self._prog, self._node_type, "list")
        _, address, node = self._lists(first["next"][ok], link, self._node, "list", np.uint64(head))
        return address, node

    def _lists(
        self,
        first: Words,
        link: int,
        dtype: np.dtype[Any],
        following: str,
        end: np.uint64 = _NULL,
    ) -> tuple[npt.NDArray[np.int64], Words, npt.NDArray[Any]]:
        """Many lists one step at a time: list of each entry, its address, its struct.

        Entries stand by list, in list order. ``link``: offset of the links in the entry. ``end``:
        what stands behind the last entry, which is the head of a list_head.
        """
        owner, address = np.flatnonzero(first != end), first[first != end] - np.uint64(link)
        parts = [(owner[:0], address[:0], np.empty(0, dtype))]
        steps, remembered = 0, np.zeros(len(first), np.uint64)
        while len(address):
            looping = address == remembered[owner]  # as Brent: the place 2**n steps from the start
            self.unreadable += int(looping.sum())
            owner, address = owner[~looping], address[~looping]
            if steps & (steps - 1) == 0:
                remembered[owner] = address
            steps += 1
            entry, ok = self._memory.structs(address, dtype)
            self.unreadable += int((~ok).sum())
            parts.append((owner[ok], address[ok], entry[ok]))
            more = ok & (entry[following] != end)
            owner, address = owner[more], entry[following][more] - np.uint64(link)
        owners = np.concatenate([p[0] for p in parts])
        by_list = np.argsort(owners, kind="stable")
        return (
            owners[by_list],
            np.concatenate([p[1] for p in parts])[by_list],
            np.concatenate([p[2] for p in parts])[by_list],
        )


def _item_table(
    node: npt.NDArray[np.int64], items: npt.NDArray[Any], mms: Words, page_shift: int
) -> Columns:
    """Columns of ``stable_items`` for the items of the mm_structs at ``mms``."""
    order, shift = np.argsort(mms), np.uint64(page_shift)
    row, known = find(mms[order], items["mm"])
    items = items[known]
    kept = items.dtype.names or ()
    none = np.zeros(len(items), np.uint32)
    return {
        "node_id": node[known].astype(np.uint32),
        "mm_id": order[row].astype(np.uint32),
        "address": items["address"] >> shift << shift,
        "age": items["age"] if "age" in kept else none.astype(np.uint8),
        "checksum": items["checksum"] if "checksum" in kept else none,
    }


def _node_dtype(prog: Program, type_: str) -> np.dtype[Any]:
    members = {"left": "node.rb_left", "right": "node.rb_right", "hlist_dup": "hlist_dup.next"}
    members["list"] = "list.next"
    members |= {"hlist": "hlist.first", "kpfn": "kpfn", "length": "rmap_hlist_len"}
    return struct_dtype(prog, type_, members)


def _item_dtype(prog: Program, type_: str) -> np.dtype[Any]:
    """Checksum and age only where the item of a stable node has them.

    Since 7.3 ``linear_page_index`` has their place there.
    """
    members = {"mm": "mm", "address": "address", "next": "hlist.next"}
    if not has_member(prog, type_, "linear_page_index"):
        members["checksum"] = "oldchecksum"
        if has_member(prog, type_, "age"):  # 6.7+, 5e924ff54d08
            members["age"] = "age"
    return struct_dtype(prog, type_, members)

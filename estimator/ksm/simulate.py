"""ksmd, item by item in scan order: the reference for every closed form.

It is run for the few contents whose outcome depends on the order of the scan, together, because
folios tie contents to each other: a merge of one content splits a folio and so decides whether two
pages of another content still belong to one folio, and which zero-filled pages vanish. What a scan
does at each item is said in ``ksmd.py``; here is in which order, and what can be passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from estimator.ksm.ksmd import MAPPED, ON_NODE, Frames, Items, Ksmd, Simulation
from estimator.ksm.rules import Rules


def simulate(items: Items, frames: Frames, rules: Rules) -> Simulation:
    """Run full scans until nothing changes any more.

    Follows cmp_and_merge_page(), try_to_merge_one_page(), try_to_merge_two_pages(),
    unstable_tree_search_insert() and stable_node_dup() of mm/ksm.c, split_huge_page() of
    mm/huge_memory.c and try_to_map_unused_to_zeropage() of mm/migrate.c.
    """
    ksmd = Ksmd(items, frames, rules)
    together = list(range(len(items)))
    if frames.nodes:
        first_scan(ksmd, together)
    splits = frames.splits
    while scan(ksmd, together, splits) - ksmd.zero_contents:
        splits = ()
        together = [item for item in together if ksmd.where[item] == MAPPED]
    for content in sorted(ksmd.active):
        finish(ksmd, content, [item for item in together if ksmd.content[item] == content])
    return ksmd.result(items)


def first_scan(ksmd: Ksmd, items: Iterable[int]) -> None:
    """Checksums are stored; forked KSM pages are appended to their nodes.

    Kernels that search the stable tree before they compare checksums merge here already.
    """
    for item in items:
        if (
            ksmd.where[item] == MAPPED
            and not ksmd.append_forked(item)
            and not ksmd.rules.checksum_before_stable_tree
        ):
            ksmd.merge_with_stable_node(item)


def scan(ksmd: Ksmd, items: Sequence[int], splits: Sequence[tuple[int, int]] = ()) -> set[int]:
    """One full scan over ``items``. Returns the contents that it changed."""
    ksmd.scans += 1
    ksmd.active = set()
    ksmd.tree = [-1] * len(ksmd.tree)
    pending = list(reversed(splits))
    run_ends = _runs(ksmd, items)
    place = 0
    while place < len(items):
        item = items[place]
        while pending and pending[-1][0] < ksmd.row[item]:
            ksmd.split_from_outside(*pending.pop())
        ksmd.visit(item)
        place += 1
        if run_ends[place - 1] > place:
            place += _join_run(ksmd, items, place, run_ends[place - 1])
    while pending:
        ksmd.split_from_outside(*pending.pop())
    if ksmd.active:
        ksmd.at_rest = max(ksmd.at_rest, ksmd.scans)
    return ksmd.active


def finish(ksmd: Ksmd, content: int, items: list[int]) -> None:
    """Scan on with one zero-filled content alone, which no other can disturb any more.

    A scan is over for the content once the page of its tree item has gone: every later search
    gives up. So each scan costs what it changes, and not what is left.
    """
    scans = ksmd.scans
    run_ends = _runs(ksmd, items)
    place = 0
    passed: list[int] = []
    changed = True
    while changed:
        ksmd.scans += 1
        ksmd.active = set()
        ksmd.tree[content] = -1
        again = iter(passed)
        passed = []
        over = False
        for item in again:
            ksmd.visit(item)
            if ksmd.where[item] == MAPPED:
                passed.append(item)
            over = _search_is_over(ksmd, content)
            if over:
                break
        while not over and place < len(items):
            item = items[place]
            ksmd.visit(item)
            if ksmd.where[item] == MAPPED:
                passed.append(item)
            place += 1
            over = _search_is_over(ksmd, content)
            if not over and run_ends[place - 1] > place:
                place += _join_run(ksmd, items, place, run_ends[place - 1])
        passed.extend(again)
        changed = bool(ksmd.active)
        if changed:
            ksmd.at_rest = max(ksmd.at_rest, ksmd.scans)
    ksmd.scans = scans


def _runs(ksmd: Ksmd, items: Sequence[int]) -> list[int]:
    """For each place in ``items``: where the run ends of those after it that are simple.

    A simple item belongs to the same content, can be merged and does not vanish: when a stable
    node has room, all of the run join it, one after the other.
    """
    index = np.asarray(items, dtype=np.int64)
    if not len(index):
        return []
    content = ksmd.content_of_item[index]
    breaks = ~ksmd.simple[index]
    breaks[1:] |= content[1:] != content[:-1]
    ends = np.where(breaks, np.arange(len(index)), len(index))
    ends = np.minimum.accumulate(ends[::-1])[::-1]
    run_ends: list[int] = np.append(ends[1:], len(index)).tolist()
    return run_ends


def _join_run(ksmd: Ksmd, items: Sequence[int], begin: int, end: int) -> int:
    """Let simple items join the stable node that has room. Returns how many do."""
    content = ksmd.content[items[begin]]
    if ksmd.rules.use_zero_pages and ksmd.zero[items[begin]]:
        return 0
    node = ksmd.open_node(content)
    if node < 0:
        return 0
    end = min(end, begin + ksmd.rules.max_page_sharing - ksmd.node_len[node])
    joined = 0
    for item in items[begin:end]:
        frame = ksmd.frame[item]
        if ksmd.where[item] != MAPPED or ksmd.node_len[frame] >= 0 or ksmd.orphan[frame]:
            break
        folio = ksmd.folio[frame]
        if folio >= 0 and ksmd.unsplit[folio]:
            ksmd.current_row = ksmd.row[item]
            ksmd.split(folio, content)
        ksmd.mapped[frame] -= 1
        ksmd.frame[item] = node
        ksmd.where[item] = ON_NODE
        joined += 1
    if joined:
        ksmd.active.add(content)
        ksmd.mapped[node] += joined
        ksmd.node_len[node] += joined
        if ksmd.node_len[node] == ksmd.rules.max_page_sharing:
            ksmd.open_nodes[content].remove(node)
    return joined


def _search_is_over(ksmd: Ksmd, content: int) -> bool:
    """The page of the tree item has gone, and there is no other way to change anything."""
    item = ksmd.tree[content]
    return item >= 0 and ksmd.where[item] != MAPPED and not ksmd.rules.use_zero_pages

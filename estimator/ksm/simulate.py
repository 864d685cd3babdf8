"""ksmd, item by item in scan order: the reference for every closed form.

It is run for the few contents whose outcome depends on the order of the scan, together, because
folios tie contents to each other: a merge of one content splits a folio and so decides whether two
pages of another content still belong to one folio, and which zero-filled pages vanish. What a scan
does at each item is said in ``ksmd.py``; here is in which order, and what can be passed over.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence, Set

import numpy as np

from estimator.ksm.ksmd import MAPPED, ON_NODE, Ksmd
from estimator.ksm.readings import Reading, Readings
from estimator.ksm.rules import Rules
from estimator.ksm.simulation import Frames, Items, Simulation
from estimator.snapshot.flags import SKIPPING_SCANS

_NOT_ZERO = -1
"""The part of the readings that all contents but the zero-filled ones add up to."""


def simulate(items: Items, frames: Frames, rules: Rules, through: int = 0) -> Simulation:
    """Run full scans until nothing changes any more.

    ``through``: the full scan up to which the readings have to be right; what takes turns at rest
    is followed until then.

    Follows cmp_and_merge_page(), try_to_merge_one_page(), try_to_merge_two_pages(),
    unstable_tree_search_insert() and stable_node_dup() of mm/ksm.c, split_huge_page() of
    mm/huge_memory.c and try_to_map_unused_to_zeropage() of mm/migrate.c.
    """
    ksmd = Ksmd(items, frames, rules)
    readings = Readings(rules.smart_scan)
    together = list(range(len(items)))
    if frames.nodes:
        first_scan(ksmd, together)
    for part in (_NOT_ZERO, *sorted(ksmd.zero_contents)):
        readings.note(part, Reading())
    splits = frames.splits
    at_rest, latest = False, ksmd.scans
    while not at_rest or (ksmd.scans < through and takes_turns(ksmd, together)):
        if scan(ksmd, together, splits) - ksmd.zero_contents:
            latest = ksmd.scans
        _note(ksmd, readings)
        splits = ()
        together = [item for item in together if ksmd.where[item] == MAPPED]
        at_rest = _is_at_rest(ksmd, latest, _undone_contents(ksmd) - ksmd.zero_contents)
    active = ksmd.active
    for content in sorted(ksmd.zero_contents):
        alone = [item for item in together if ksmd.content[item] == content]
        if content in active or takes_turns(ksmd, alone):
            finish(ksmd, content, alone, readings, through)
    return ksmd.result(items, readings)


def takes_turns(ksmd: Ksmd, items: Iterable[int]) -> bool:
    """Whether smart_scan lets some of ``items`` through in other scans than the rest."""
    apart = ksmd.awake if ksmd.rules.smart_scan else set()
    return any(
        (item in apart or item in ksmd.undone) and ksmd.where[item] == MAPPED for item in items
    )


def _note(ksmd: Ksmd, readings: Readings) -> None:
    """Add what the scan that has ended shows of all contents."""
    unshared = len(ksmd.tree) - ksmd.tree.count(-1)
    out_of_step = sum(ksmd.out_of_step.values())
    for content in sorted(ksmd.zero_contents):
        reading = _reading_of(ksmd, content)
        readings.note(content, reading)
        unshared, out_of_step = unshared - reading.unshared, out_of_step - reading.processed
    readings.note(_NOT_ZERO, Reading(unshared, out_of_step))


def _reading_of(ksmd: Ksmd, content: int) -> Reading:
    of_content = (n for item, n in ksmd.out_of_step.items() if ksmd.content[item] == content)
    return Reading(int(ksmd.tree[content] >= 0), sum(of_content))


def _undone_contents(ksmd: Ksmd) -> set[int]:
    """The contents of items that break_cow() made as new, and that still are where they were."""
    return {ksmd.content[item] for item in ksmd.undone if ksmd.where[item] == MAPPED}


def _is_at_rest(ksmd: Ksmd, latest: int, undone: Set[int]) -> bool:
    """Whether nothing changes any more after this scan; scan ``latest`` changed something.

    One scan that processes all items tells. Those that break_cow() made as new, of the contents
    ``undone``, are out of step: they and the others must have had their turns.
    """
    enough_scans = 1
    if undone:
        enough_scans = 2 * SKIPPING_SCANS if ksmd.rules.smart_scan else 2
    return ksmd.scans - latest >= enough_scans and ksmd.in_step()


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
    ksmd.next_scan()
    if not ksmd.in_step():
        scan_the_rest_skipped(ksmd, None)
        return ksmd.active
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


def scan_the_rest_skipped(ksmd: Ksmd, content: int | None) -> None:
    """One full scan in which smart_scan skips the items that are in step with it.

    What it comes to: KSM pages, and what break_cow() made as new; of one ``content``, or of all.
    """
    heap = [item for item in (*ksmd.awake, *ksmd.undone) if content in (None, ksmd.content[item])]
    heapq.heapify(heap)
    place = -1
    while heap:
        item = heapq.heappop(heap)
        if item == place or ksmd.where[item] != MAPPED:
            continue
        place = item
        if not ksmd.is_skipped(item):
            ksmd.out_of_step[item] = 1
        ksmd.woken.clear()
        ksmd.visit(item)
        for woken in ksmd.woken:
            if woken > place:
                heapq.heappush(heap, woken)
    if ksmd.active:
        ksmd.at_rest = max(ksmd.at_rest, ksmd.scans)


def finish(ksmd: Ksmd, content: int, items: list[int], readings: Readings, through: int) -> None:
    """Scan on with one zero-filled content alone, which no other can disturb any more.

    A scan is over for the content once the page of its tree item has gone: every later search
    gives up, and only forked KSM pages still come to their nodes. So each scan costs what it
    changes, and not what is left.
    """
    scans = ksmd.scans
    run_ends = _runs(ksmd, items)
    place = 0
    passed: list[int] = []
    at_rest, latest = False, scans
    while not at_rest or (ksmd.scans < through and takes_turns(ksmd, items)):
        ksmd.next_scan(content)
        if ksmd.in_step():
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
            if over:
                _append_forked_behind(ksmd, content, item)
        else:
            scan_the_rest_skipped(ksmd, content)
        readings.note(content, _reading_of(ksmd, content))
        if ksmd.active:
            latest = ksmd.scans
            ksmd.at_rest = max(ksmd.at_rest, latest)
        at_rest = _is_at_rest(ksmd, latest, _undone_contents(ksmd) & {content})
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
    if ksmd.undone or not ksmd.in_step():
        return 0
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
        ksmd.settled_in[item] = ksmd.scans
        joined += 1
    if joined:
        ksmd.active.add(content)
        ksmd.mapped[node] += joined
        ksmd.node_len[node] += joined
        if ksmd.node_len[node] == ksmd.rules.max_page_sharing:
            ksmd.open_nodes[content].remove(node)
    return joined


def _append_forked_behind(ksmd: Ksmd, content: int, item: int) -> None:
    """What the rest of the scan, behind ``item``, does where no search finds anything."""
    for other in sorted(ksmd.awake):
        if other > item and ksmd.content[other] == content and ksmd.where[other] == MAPPED:
            ksmd.visit(other)


def _search_is_over(ksmd: Ksmd, content: int) -> bool:
    """The page of the tree item has gone, and there is no other way to change anything."""
    item = ksmd.tree[content]
    return item >= 0 and ksmd.where[item] != MAPPED and not ksmd.rules.use_zero_pages

"""ksmd while processes come to it one after the other, scan by scan.

__ksm_enter() in mm/ksm.c puts a new mm behind the cursor of the scan: it is first visited in the
next full scan. Here those that come later also stand later in the scan, which decides no more than
which frame of equal ones is kept. A process that comes was forked, or starts: of a frame that it
shares with one that was there before, it maps what that one maps by then.

Contents whose items are alike, but for their bytes, fare alike: the same processes' arrivals in the
same order, with the same frames shared. So one content of each such pattern is followed by the
rules of ``ksmd.py``, and counted as often as there are.

Two things are simpler than in ``forecast``: huge pages are taken as split (``large_pages``), and
KSM starts from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from estimator.arrays import Ints, Mask, Words, count
from estimator.ksm.accounting import general_profit_bytes
from estimator.ksm.case import Case
from estimator.ksm.fate import hidden_roots
from estimator.ksm.ksmd import MAPPED, NOT_THERE, ON_NODE, ZERO_PAGE, Ksmd
from estimator.ksm.readings import is_processed
from estimator.ksm.replay import items_of
from estimator.ksm.simulate_turns import visit_those_due
from estimator.ksm.simulation import Frames, Items
from estimator.snapshot.flags import SKIPPING_SCANS
from estimator.snapshot.snapshot import mapping_mm

_ODD, _EVEN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True)
class Patterns:
    """One content of each pattern.

    ``items``: of these contents, by content and arrival; folios are left out. ``group``: i64 per
    item, the number of the group that its process comes with. ``root``: bool per item, see
    ``hidden_roots``. ``weight``: i64 per content, how many there are like it. ``changing``: i64 per
    group, pages that keep changing. ``large_pages``: of all items, those in huge pages.
    """

    items: Items
    frames: Frames
    group: Ints
    root: Mask
    weight: Ints
    changing: Ints
    large_pages: int


def patterns_of(case: Case, group_of_mm: Ints) -> Patterns:
    """Find the patterns of ``case``, in which nothing has merged.

    ``group_of_mm``: i64 per process, from 0 on in the order in which they come.
    """
    facts = case.facts
    mm = mapping_mm(case.snapshot)
    none = np.zeros(0, np.int32)
    roots, closed_trees = hidden_roots(case)
    if group_of_mm[mm[roots]].any():  # comes later, and so is none
        roots, closed_trees = roots[:0], np.zeros_like(closed_trees)
    never = np.full(len(facts.items), np.iinfo(np.int32).max, np.int32)
    items, frames = items_of(case, facts.items > 0, none, closed_trees, never)
    group = group_of_mm[mm[items.row]]
    changing = count(group_of_mm[mm[case.candidates.changing]], int(group_of_mm.max(initial=0)) + 1)
    order = np.lexsort((items.row, group, items.content))
    items, group = _chosen(items, order), group[order]
    root = np.isin(items.row, roots)
    chosen, weight = _alike(items, group, [root, _others(items, frames)], frames)
    items, group, root = _chosen(items, chosen), group[chosen], root[chosen]
    found = replace(items, row=np.arange(len(items)), content=_numbered(items.content))
    closed = frozenset(found.content[np.isin(items.content, list(frames.closed_trees))].tolist())
    ours = set(items.frame.tolist())
    others = {frame: n for frame, n in frames.other_mappings.items() if frame in ours}
    return Patterns(
        replace(found, folio=np.full(len(items), -1)),
        Frames(others, {}, frozenset(), (), frames.orphans & ours, closed),
        group,
        root,
        weight,
        changing.astype(np.int64),
        int(np.count_nonzero(facts.folio[case.candidates.frame] >= 0)),
    )


def _chosen(items: Items, order: Ints) -> Items:
    return Items(**{name: values[order] for name, values in vars(items).items()})


def _numbered(values: Ints) -> Ints:
    """Numbers from 0 on, a new one wherever the next value is another."""
    return np.cumsum(np.append(False, values[1:] != values[:-1])[: len(values)])


def _others(items: Items, frames: Frames) -> Mask:
    """Bool per item: mappings that are no items keep its frame."""
    kept = np.fromiter(frames.other_mappings, np.int64, len(frames.other_mappings))
    return np.isin(items.frame, kept)


def _alike(items: Items, group: Ints, traits: list[Mask], frames: Frames) -> tuple[Ints, Ints]:
    """The places of the items of one content of each pattern, and how many there are of each.

    Patterns are told apart by 128 bits.
    """
    if not len(items):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.append(True, items.content[1:] != items.content[:-1]))
    of = _numbered(items.content)
    closed = np.isin(items.content, list(frames.closed_trees))
    traits = [*traits, items.zero, items.blocked, items.opaque, closed]
    token = group.astype(np.uint64)
    for trait in (_rank_of_frame(items.frame, starts, of), *traits):
        token = (token * _ODD) ^ (trait.astype(np.uint64) + _EVEN)
    place = (np.arange(len(items)) - starts[of]).astype(np.uint64)
    sums = [np.add.reduceat(_mixed(token, place, salt), starts) for salt in (_ODD, _EVEN)]
    size = np.diff(np.append(starts, len(items)))
    order = np.lexsort((*sums, size))
    new = np.zeros(len(order), np.bool_)
    new[:1] = True
    for values in (*sums, size):
        new[1:] |= values[order][1:] != values[order][:-1]
    weight = np.diff(np.append(np.flatnonzero(new), len(order)))
    first = order[new]
    back = np.argsort(first)
    first, weight = first[back], weight[back]
    chosen = np.zeros(len(size), np.bool_)
    chosen[first] = True
    return np.flatnonzero(chosen[of]), weight


def _mixed(token: Words, place: Words, salt: np.uint64) -> Words:
    mixed = (token ^ salt) * (place * np.uint64(2) + np.uint64(1))
    mixed ^= mixed >> np.uint64(29)
    mixed *= salt | np.uint64(1)
    return mixed ^ (mixed >> np.uint64(32))


def _rank_of_frame(frame: Ints, starts: Ints, of: Ints) -> Ints:
    """Of each item, the how-manieth frame of its content its frame is."""
    _, first, number = np.unique(frame, return_index=True, return_inverse=True)
    is_first = np.zeros(len(frame), np.int64)
    is_first[first] = 1
    so_far = np.cumsum(is_first)
    rank: Ints = (so_far - so_far[starts][of])[first][number]
    return rank


class Arriving:
    """ksmd from the start on; each call of ``scan`` is one full scan."""

    def __init__(self, case: Case, patterns: Patterns) -> None:
        self._rules, self._patterns = case.rules, patterns
        self._ksmd = ksmd = Ksmd(patterns.items, patterns.frames, case.rules)
        ksmd.scans = 0
        self._first_frame = list(ksmd.frame)
        for frame in ksmd.frame:
            ksmd.mapped[frame] -= 1
        ksmd.where = [NOT_THERE] * len(ksmd.where)
        ksmd.awake.clear()
        groups = len(patterns.changing)
        by_group = np.argsort(patterns.group, kind="stable")
        bounds = np.searchsorted(patterns.group[by_group], np.arange(groups + 1))
        self._items_of_group = [
            by_group[begin:end].tolist() for begin, end in pairwise(bounds.tolist())
        ]
        self._came_in = np.zeros(groups, np.int64)
        self._there = 0
        self._uncounted = 0
        self._mapped_items: list[int] = []
        self._keeper: dict[int, int] = {}
        self._present = np.zeros(len(ksmd.frame_ids), np.bool_)
        self._present[[ksmd.numbers[frame] for frame in patterns.frames.other_mappings]] = True
        self._roots: list[int] = np.flatnonzero(patterns.root).tolist()
        self._weight_of_item = patterns.weight[patterns.items.content]
        self._groups: list[int] = patterns.group.tolist()
        self._weights: list[int] = self._weight_of_item.tolist()
        self._weight_of_frame = np.zeros(len(ksmd.frame_ids), np.int64)
        self._weight_of_frame[ksmd.frame] = self._weight_of_item
        self._content_of_frame = np.zeros(len(ksmd.frame_ids), np.int64)
        self._content_of_frame[ksmd.frame] = patterns.items.content

    @property
    def turns(self) -> int:
        """In so many full scans every two pages that ever meet have met."""
        return 2 * SKIPPING_SCANS if self._rules.smart_scan else 2

    def scan(self, groups: int) -> dict[str, int]:
        """One full scan; the first so many groups had come when it began.

        Fork copies mappings of zero pages; its kernel counts them or does not (ksm_fork() in
        include/linux/ksm.h).

        Returns the counters after it, by the names of ``Forecast.scans``; pages_scanned and
        pages_skipped are of this scan.
        """
        ksmd = self._ksmd
        ksmd.next_scan()
        ksmd.all_due = False
        for group in range(self._there, groups):
            self._came_in[group] = ksmd.scans
            for item in self._items_of_group[group]:
                self._let_in(item)
        came = groups > self._there
        self._there = max(self._there, groups)
        if came:
            self._mapped_items.sort()
        due = [self._is_due(group) for group in range(self._there)]
        on_nodes = self._weighed(ON_NODE)
        visited = self._visit(due)
        if visited:
            where = ksmd.where
            self._mapped_items = [item for item in self._mapped_items if where[item] == MAPPED]
        changing = self._patterns.changing[: self._there]
        steady = int(changing[np.array(due, np.bool_)].sum()) if len(due) else 0
        self._in_root = sum(
            ksmd.where[item] == MAPPED and ksmd.visits(item) > 1 and not ksmd.is_skipped(item)
            for item in self._roots
        )
        return self._counters(int(changing.sum()), on_nodes + visited + steady)

    def _is_due(self, group: int) -> bool:
        visits = self._ksmd.scans - int(self._came_in[group]) + 1
        return not self._rules.smart_scan or is_processed(visits)

    def _let_in(self, item: int) -> None:
        ksmd = self._ksmd
        frame = self._first_frame[item]
        self._present[frame] = True
        keeper = self._keeper.setdefault(frame, item)
        ksmd.before[item] = ksmd.scans - 1
        if ksmd.where[keeper] == ZERO_PAGE:
            ksmd.where[item] = ZERO_PAGE
            if not self._rules.fork_counts_zero_pages:
                self._uncounted += self._weights[item]
            return
        frame = ksmd.frame[keeper]
        ksmd.frame[item] = frame
        ksmd.where[item] = MAPPED
        ksmd.mapped[frame] += 1
        if ksmd.orphan[frame] or ksmd.node_len[frame] >= 0:
            ksmd.awake.add(item)
        if keeper != item:
            ksmd.items_of_shared.setdefault(frame, []).append(item)
        self._mapped_items.append(item)

    def _visit(self, due: list[bool]) -> int:
        """Returns how many pages that were on no node when the scan came by, weighed."""
        visited = visit_those_due(self._ksmd, self._mapped_items, self._groups, due)
        return sum(self._weights[item] for item in visited)

    def _weighed(self, where: int) -> int:
        there = np.array(self._ksmd.where, np.int64) == where
        return int(self._weight_of_item[there].sum())

    def _counters(self, changing: int, processed: int) -> dict[str, int]:
        ksmd, rules, weight = self._ksmd, self._rules, self._patterns.weight
        where = np.array(ksmd.where, np.int64)
        freed_in = np.array(ksmd.freed_in, np.int64)
        has_item = (where == MAPPED) | (where == ON_NODE) | (freed_in > ksmd.scans)
        items = int(self._weight_of_item[has_item].sum()) + changing
        merged = int(self._weight_of_item[where == ON_NODE].sum())
        tree = np.array(ksmd.tree, np.int64)
        unshared = int(weight[tree >= 0].sum()) + self._in_root
        copies = np.array(ksmd.copies, np.int64)
        weight_of_frame = np.append(self._weight_of_frame, self._weight_of_item[copies])
        in_use = np.array(ksmd.mapped, np.int64) > 0
        there = np.append(self._present, np.zeros(len(copies), np.bool_))
        nodes = np.array(ksmd.node_len, np.int64) > 0
        content = np.append(self._content_of_frame, self._patterns.items.content[copies])
        per_content = np.bincount(content[nodes], minlength=len(weight))
        chained = per_content > 1
        shared = int(weight_of_frame[nodes].sum())
        zero_pages = self._weighed(ZERO_PAGE) - self._uncounted if rules.counts_zero_pages else 0
        freed = int(weight_of_frame[there].sum() - weight_of_frame[in_use].sum())
        return {
            "full_scans": ksmd.scans,
            "pages_shared": shared,
            "pages_sharing": merged - shared,
            "pages_unshared": unshared,
            "pages_volatile": items - merged - unshared,
            "ksm_zero_pages": zero_pages,
            "stable_node_chains": int(weight[chained].sum()),
            "stable_node_dups": int((weight * per_content)[chained].sum()),
            "ksm_rmap_items": items,
            "general_profit": general_profit_bytes(rules, merged - shared, zero_pages, items),
            "pages_scanned": processed,
            "pages_skipped": items - processed,
            "frames_freed": freed,
            "bytes_saved": freed * rules.page_bytes,
        }


def table_of(rows: list[dict[str, int]]) -> pd.DataFrame:
    """The scans as ``Forecast.scans``: pages_scanned and pages_skipped since the first one."""
    table = pd.DataFrame(rows)
    for name in ("pages_scanned", "pages_skipped"):
        table[name] = table[name].cumsum()
    return table

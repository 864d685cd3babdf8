"""ksmd between two items: page tables, frames, both trees, and what one visit does to them.

An *item* is one candidate mapping (one rmap_item). Only what changes counters is kept: page tables
as ``frame`` per item, frames as KSM or not, the unstable tree as one item per content, stable
nodes as the number of their items. What the real tree does besides, because it compares bytes, is
that a search which passes an item whose page has gone gives up for this scan; that delays merges
and does not change the state at rest, except for contents whose outcome depends on order.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from estimator.ksm.frames import distinct
from estimator.ksm.prediction import Outcome
from estimator.ksm.readings import Readings, is_processed, processes_all
from estimator.ksm.rules import Rules
from estimator.ksm.simulation import Frames, Items, Simulation

MAPPED, ON_NODE, ZERO_PAGE, SPLIT_AWAY, NOT_THERE = range(5)


class Ksmd:
    """The state of ksmd between two items.

    Frames and folios are numbered from 0 here. ``where``: what became of an item's page; NOT_THERE:
    its process has not come yet (``arrivals.py``). ``before``: the scan before an item's first one.
    ``node_len``: rmap_hlist_len of the stable node of a frame, -1 where it is no KSM page.
    ``open_nodes``: nodes of a content with less than max_page_sharing items, in the order of
    search. ``tree``: the item in the unstable tree, per content. ``active``: the contents that
    changed in the latest scan. ``simple`` (bool per item): it can be merged and does not vanish.
    ``undone``: items that break_cow() made as new, and the scan in which it did; only where
    ``rules.break_cow_forgets``. ``awake``: items that map a KSM page and are on no node, which
    smart_scan never skips; ``woken``: those that have become so. ``out_of_step``: per item, see
    ``Reading.processed``. ``scans``: the number of this full scan.
    """

    def __init__(self, items: Items, frames: Frames, rules: Rules) -> None:
        self.rules = rules
        self.closed_trees = frames.closed_trees
        contents = int(items.content.max()) + 1 if len(items) else 0
        self.row: list[int] = items.row.tolist()
        self.content: list[int] = items.content.tolist()
        self.zero: list[bool] = items.zero.tolist()
        self.blocked: list[bool] = items.blocked.tolist()
        self.opaque: list[bool] = items.opaque.tolist()
        self.where = [ON_NODE if on_node else MAPPED for on_node in items.on_node.tolist()]
        self.before = [0] * len(items)
        self._number_frames(items, frames)
        self._number_folios(items, frames)
        self.open_nodes: list[list[int]] = [[] for _ in range(contents)]
        for content, node_frames in frames.nodes.items():
            self.open_nodes[content] = [
                n for n in map(self.numbers.get, node_frames) if n is not None
            ]
            for n in self.open_nodes[content]:
                self.node_len[n] = 0
        for item in np.flatnonzero(items.on_node).tolist():
            self._count(self.content[item], self.frame[item])
        self.tree = [-1] * contents
        self.content_of_item = items.content
        self.zero_contents: set[int] = set()
        if rules.split_maps_zero_page:
            self.zero_contents = set(items.content[items.zero].tolist())
        self.active: set[int] = set()
        self.undone: dict[int, int] = {}
        self.current_row = -1
        self.scans = 1
        self.at_rest = 2
        self.all_due = True
        self.out_of_step: dict[int, int] = {}
        self.woken: list[int] = []
        self.settled_in = [0] * len(items)
        self.freed_in = [0] * len(items)
        self.splits: dict[int, tuple[int, int]] = {}
        self.copies_made_in: list[int] = []
        self.blocked_from: dict[int, int] = {}
        self.awake = {
            item
            for item, frame in enumerate(self.frame)
            if self.where[item] == MAPPED and (self.orphan[frame] or self.node_len[frame] >= 0)
        }

    def _number_frames(self, items: Items, frames: Frames) -> None:
        ids = distinct(items.frame)
        number = np.searchsorted(ids, items.frame)
        self.frame_ids: list[int] = ids.tolist()
        self.numbers = {frame_id: n for n, frame_id in enumerate(self.frame_ids)}
        self.frame: list[int] = number.tolist()
        counts = np.bincount(number)
        self.mapped: list[int] = counts.tolist()
        self.items_of_shared: dict[int, list[int]] = {}
        for item in np.flatnonzero(counts[number] > 1).tolist():
            self.items_of_shared.setdefault(self.frame[item], []).append(item)
        for frame_id, count in frames.other_mappings.items():
            self.mapped[self.numbers[frame_id]] += count
        self.node_len = [-1] * len(ids)
        self.orphan = [frame_id in frames.orphans for frame_id in self.frame_ids]
        self.folio = [-1] * len(ids)
        self.copies: list[int] = []  # the item for which each further frame was made
        self.simple = ~(items.blocked | items.opaque | items.on_node)

    def _number_folios(self, items: Items, frames: Frames) -> None:
        large = np.flatnonzero(items.folio >= 0)
        ids = distinct(items.folio[large])
        number = np.searchsorted(ids, items.folio)
        self.folio_ids: list[int] = ids.tolist()
        self.folio_numbers = {folio_id: n for n, folio_id in enumerate(self.folio_ids)}
        for item in large.tolist():
            self.folio[self.frame[item]] = int(number[item])
        self.unsplit = [True] * len(ids)
        self.pinned = [folio_id in frames.pinned_folios for folio_id in self.folio_ids]
        self.vanishing: list[list[int]] = [[] for _ in ids]
        if self.rules.split_maps_zero_page:
            vanishing = items.zero & ~items.locked & (items.folio >= 0)
            self.simple &= ~vanishing
            for item in np.flatnonzero(vanishing).tolist():
                self.vanishing[int(number[item])].append(item)

    def visit(self, item: int) -> None:
        """cmp_and_merge_page() of a page that did not change."""
        if self.where[item] != MAPPED or self.append_forked(item):
            return
        if not (self.all_due or self.is_due(item)):
            return
        self.current_row = self.row[item]
        zero_page = self.zero[item] and self.rules.use_zero_pages
        checksum_first = self.rules.checksum_before_stable_tree
        if zero_page and checksum_first and self.merge_with_zero_page(item):
            return
        if self.merge_with_stable_node(item):
            return
        if zero_page and not checksum_first and self.merge_with_zero_page(item):
            return
        self.search_unstable_tree(item)

    def next_scan(self, content: int | None = None) -> None:
        """A full scan begins: the unstable tree is empty. ``content``: nothing else is scanned."""
        self.scans += 1
        self.active = set()
        if content is None:
            self.tree = [-1] * len(self.tree)
        else:
            self.tree[content] = -1
        self.all_due = self.in_step() and not self.undone
        self.out_of_step = {}
        if self.in_step() and self.rules.smart_scan:
            self.out_of_step = {
                item: -1
                for item in self.undone
                if self.where[item] == MAPPED and self.is_skipped(item)
            }

    def is_due(self, item: int) -> bool:
        """Whether cmp_and_merge_page() looks for a partner in this scan.

        Not at the first visit, which stores the checksum.
        """
        return self.visits(item) != 1 and not self.is_skipped(item)

    def visits(self, item: int) -> int:
        """How often the scan has come to the item since its age was 0, this scan included."""
        return self.scans - self.undone.get(item, self.before[item])

    def is_skipped(self, item: int) -> bool:
        """should_skip_rmap_item(), which never skips KSM pages."""
        if not self.rules.smart_scan or item in self.awake:
            return False
        return not is_processed(self.visits(item))

    def in_step(self) -> bool:
        """Whether this scan processes the items that were there from the first scan on."""
        return processes_all(self.scans, smart_scan=self.rules.smart_scan)

    def wake(self, frame: int) -> None:
        """A frame has become a KSM page: its items are not skipped from now on."""
        for item in self.items_of_shared.get(frame, ()):
            if self.where[item] == MAPPED and self.frame[item] == frame:
                self.awake.add(item)
                self.woken.append(item)

    def append_forked(self, item: int) -> bool:
        """stable_tree_search(), "ksm page forked": joins its node, whatever the limit."""
        frame = self.frame[item]
        if self.node_len[frame] < 0:
            return False
        self.awake.discard(item)
        self._append(item, frame)
        return True

    def merge_with_zero_page(self, item: int) -> bool:
        """try_to_merge_with_zero_page(). False: the kernel goes on with this item."""
        if not self.prepare(item):
            return False
        self._vanish(item, ZERO_PAGE)
        return True

    def merge_with_stable_node(self, item: int) -> bool:
        """stable_tree_search() and try_to_merge_with_ksm_page(). False: no node has room.

        Of several nodes with room, stable_node_dup() takes the fullest when its prune timer has
        expired and moves it to the front, where later searches find it first.
        """
        node = self.open_node(self.content[item])
        if node < 0:
            return False
        if self.prepare(item):
            self._append(item, node)
        return True

    def open_node(self, content: int) -> int:
        """A stable node with items and room for one more, as its frame; -1: none."""
        open_nodes = self.open_nodes[content]
        if not open_nodes:
            return -1
        node = max(open_nodes, key=self.node_len.__getitem__)
        return node if self.node_len[node] > 0 else -1

    def search_unstable_tree(self, item: int) -> None:
        """unstable_tree_search_insert() and try_to_merge_two_pages()."""
        content = self.content[item]
        if content in self.closed_trees:
            return
        tree_item = self.tree[content]
        if tree_item < 0:
            self.tree[content] = item
            if self.where[item] != MAPPED:
                self.blocked_from.setdefault(self.scans, self.row[item])
            return
        frame, tree_frame = self.frame[item], self.frame[tree_item]
        if self.where[tree_item] != MAPPED or self.opaque[tree_item] or frame == tree_frame:
            return
        folio = self.folio[frame]
        if folio >= 0 and self.unsplit[folio] and folio == self.folio[tree_frame]:
            self.split(folio, content)  # ksmd holds it twice: this split comes too late to merge
        elif self.prepare(item):
            if self.prepare(tree_item):
                self.tree[content] = -1
                self.node_len[frame] = 0
                self.open_nodes[content].insert(0, frame)
                self._append(tree_item, frame)
                self._append(item, frame)
                self.wake(frame)
            else:
                self.break_cow(item)

    def prepare(self, item: int) -> bool:
        """try_to_merge_one_page() up to write_protect_page(): split the folio, check references."""
        frame = self.frame[item]
        folio = self.folio[frame]
        if folio >= 0 and self.unsplit[folio] and not self.split(folio, self.content[item]):
            return False
        return not (self.where[item] != MAPPED or self.blocked[item] or self.orphan[frame])

    def break_cow(self, item: int) -> None:
        """The item gets a page of its own; who else maps the frame keeps a KSM page without node.

        Nothing else changes for the model if nobody else does. Since the age and the checksum of
        an item share their place with what break_cow() resets (7.3), the item is as new.
        """
        if self.rules.break_cow_forgets:
            self.undone[item] = self.scans
        frame = self.frame[item]
        if self.mapped[frame] == 1:
            return
        self.mapped[frame] -= 1
        self.orphan[frame] = True
        self.frame[item] = len(self.mapped)
        self.mapped.append(1)
        self.orphan.append(False)
        self.node_len.append(-1)
        self.folio.append(-1)
        self.copies.append(item)
        self.copies_made_in.append(self.scans)
        self.active.add(self.content[item])
        self.wake(frame)

    def _append(self, item: int, frame: int) -> None:
        """stable_tree_append(): ``item`` maps ``frame`` from now on."""
        self.mapped[self.frame[item]] -= 1
        self.mapped[frame] += 1
        self.frame[item] = frame
        self.where[item] = ON_NODE
        self.settled_in[item] = self.scans
        self.active.add(self.content[item])
        self._count(self.content[item], frame)

    def _count(self, content: int, frame: int) -> None:
        self.node_len[frame] += 1
        if self.node_len[frame] == self.rules.max_page_sharing:
            self.open_nodes[content].remove(frame)

    def split(self, folio: int, content: int) -> bool:
        """split_huge_page(), and what try_to_map_unused_to_zeropage() takes from it."""
        if self.pinned[folio]:
            return False
        self.unsplit[folio] = False
        self.splits[self.folio_ids[folio]] = (self.scans, self.current_row)
        self.active.add(content)
        for item in self.vanishing[folio]:
            if self.where[item] == MAPPED:
                self._vanish(item, SPLIT_AWAY)
        return True

    def split_from_outside(self, row: int, folio_id: int) -> None:
        folio = self.folio_numbers.get(folio_id)
        if folio is not None and self.unsplit[folio]:
            self.current_row = row
            self.split(folio, -1)
            self.active.discard(-1)

    def _vanish(self, item: int, where: int) -> None:
        """Its rmap_item is freed when the walk comes by: in the next scan if it is behind now."""
        content, behind = self.content[item], self.row[item] <= self.current_row
        self.where[item] = where
        self.mapped[self.frame[item]] -= 1
        self.active.add(content)
        self.settled_in[item], self.freed_in[item] = self.scans, self.scans + behind
        if behind:
            self.at_rest = max(self.at_rest, self.scans + 1)
        if self.tree[content] == item:
            self.blocked_from.setdefault(self.scans, self.current_row)

    def waiting(self) -> list[int]:
        """The items that are in the unstable tree."""
        return [item for item in self.tree if item >= 0 and self.where[item] == MAPPED]

    def result(
        self, items: Items, readings: Readings, waiting: Iterable[int] | None = None
    ) -> Simulation:
        """What is at rest now, and what the scans showed.

        ``waiting``: the items that are in the tree in one scan or another; else ``self.waiting()``.
        """
        where = np.array(self.where, dtype=np.int64)
        in_tree = list(self.waiting() if waiting is None else waiting)
        outcome = np.array(
            [Outcome.VOLATILE, Outcome.MERGED, Outcome.ZERO_PAGE, Outcome.SPLIT_AWAY], np.uint8
        )[where]
        outcome[in_tree] = Outcome.UNSHARED
        turns = self.rules.smart_scan and bool(self.undone)
        originals = len(self.frame_ids)
        first_frame = np.searchsorted(self.frame_ids, items.frame[self.copies])
        copied_from = np.arange(len(self.mapped))
        copied_from[originals:] = first_frame
        frame_ids = np.array(self.frame_ids, dtype=np.int64)[copied_from]
        copies = np.array(self.copies, dtype=np.int64)
        in_use = np.array(self.mapped[originals:], dtype=np.int64) > 0
        settled_in = np.array(self.settled_in, dtype=np.int64)
        frame = frame_ids[np.array(self.frame, dtype=np.int64)]
        return Simulation(
            outcome=outcome,
            stable_frame=np.where(where == ON_NODE, frame, -1),
            copied=copies[in_use],
            orphans=frozenset(
                i for i, orphan in zip(frame_ids, self.orphan, strict=True) if orphan
            ),
            split_folios=frozenset(
                i for i, unsplit in zip(self.folio_ids, self.unsplit, strict=True) if not unsplit
            ),
            scans=self.at_rest if turns else max(self.at_rest, readings.latest_change()),
            settled_in=settled_in,
            freed_in=np.array(self.freed_in, dtype=np.int64),
            splits=self.splits,
            copies_made_in=np.array(self.copies_made_in, dtype=np.int64),
            copies_freed_in=settled_in[copies[~in_use]],
            readings=readings,
            blocked_from=self.blocked_from,
        )

"""Contents (frames with the same bytes) and what becomes of them where order does not matter.

The closed forms are exact at rest, whatever the order of the scan, for the reasons given in
``closed_forms``. What is left is named there too and is run through ``simulate.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.ksm.candidates import Candidates
from estimator.ksm.facts import NEVER, Bools, FrameFacts, Ints
from estimator.ksm.rules import Rules


@dataclass(frozen=True)
class Contents:
    """The known frames by content.

    ``of_frame``: number of the content per frame, -1 where unknown. ``order``: known frames, those
    of one content together. ``starts``: where in ``order`` each content starts, and its length.
    """

    of_frame: Ints
    order: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class ClosedForms:
    """What the closed forms say, and what they leave open.

    ``stable_frame``: i64 per frame, the KSM frame that all its items map in the end, -1 if they
    are not merged. ``unshared``: rows whose item waits in the unstable tree. ``copied``: rows that
    map a copy made by break_cow() in the end. ``split``: i64 per frame, the row at which the second
    full scan splits its folio because of it, else NEVER. ``open``: bool per content, left to
    ``simulate.py``. ``scans``: full scans until at rest.
    """

    stable_frame: Ints
    unshared: Ints
    copied: Ints
    split: Ints
    open: Bools
    scans: int


def group_by_content(frames: pd.DataFrame, rules: Rules) -> Contents:
    """Group the frames whose content is known.

    A content is the 4096 bytes; where trees are per NUMA node (get_kpfn_nid() in mm/ksm.c), of one
    node. KSM compares bytes: equal 64-bit hashes are taken for equal bytes.
    """
    known = np.flatnonzero(frames["unknown"].to_numpy() == 0)
    values = frames["hash"].to_numpy(dtype=np.uint64, na_value=0)
    if len(known) != len(frames):
        values = values[known]
    order = np.argsort(values)
    values = values[order]
    new = np.ones(len(known), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    order = known[order]
    if not rules.merge_across_nodes:
        node = frames["node"].to_numpy()[order]
        by_node = np.lexsort((node, np.cumsum(new)))
        order, node = order[by_node], node[by_node]
        new[1:] |= node[1:] != node[:-1]
    of_frame = np.full(len(frames), -1, dtype=np.int64)
    of_frame[order] = np.cumsum(new) - 1
    return Contents(of_frame, order, np.append(np.flatnonzero(new), len(known)))


def per_frame(per_content: Bools, contents: Contents) -> Bools:
    """Bool per content -> bool per frame; False where the content is unknown."""
    spread: Bools = np.append(per_content, False)[contents.of_frame]
    return spread


class _Groups:
    """The contents that need a look, with the facts of their frames side by side.

    ``content``: their numbers. ``frame``: their frames, content by content; ``starts``: where each
    begins; ``of``: which of them a frame belongs to. Per content: ``n`` items, ``p`` the row of the
    first item, ``q`` the row of the first item that can be merged and is on another frame.
    """

    def __init__(self, contents: Contents, facts: FrameFacts, wanted: Bools) -> None:
        sizes = np.diff(contents.starts)
        self.content = np.flatnonzero(wanted)
        self.frame = contents.order[np.repeat(wanted, sizes)]
        sizes = sizes[self.content]
        self.starts = np.cumsum(sizes) - sizes
        self.of = np.repeat(np.arange(len(sizes)), sizes)
        self.items = facts.items[self.frame]
        self.first = facts.first[self.frame]
        self.blocked = facts.blocked[self.frame]
        self.n = self.total(self.items)
        self.p = np.minimum.reduceat(self.first, self.starts)
        self.is_f1 = self.first == self.p[self.of]
        self.q = np.minimum.reduceat(
            np.where(self.is_f1 | self.blocked, NEVER, self.first), self.starts
        )

    def total(self, per_frame: npt.NDArray[Any]) -> Ints:
        """Sum over the frames of each content."""
        totals: Ints = np.add.reduceat(per_frame, self.starts, dtype=np.int64)
        return totals

    def any(self, per_frame: Bools) -> Bools:
        """True for the contents of which a frame is."""
        found: Bools = np.logical_or.reduceat(per_frame, self.starts)
        return found


def closed_forms(
    contents: Contents,
    facts: FrameFacts,
    candidates: Candidates,
    frame_of_row: npt.NDArray[np.uint32],
    rules: Rules,
    *,
    elsewhere: Bools,
    split: Ints,
) -> ClosedForms:
    """Solve every content whose state at rest does not depend on the order of the scan.

    ``elsewhere``: bool per content, solved by other rules. ``split``: see ``ClosedForms``; as other
    rules have filled it, and extended here.

    Let a content have N items on D frames, f1 the frame of the first item in the scan, and q the
    first item that can be merged and is on another frame than f1.

    - No q: each search meets ``page == tree_page`` in unstable_tree_search_insert() or can't be
      merged. The first item stays in the unstable tree, N-1 are volatile. No folio is split.
    - First item can't be merged: it is the tree item in every scan, each attempt to merge with it
      fails in try_to_merge_two_pages(). One unshared, N-1 volatile. The scanned page was a KSM
      page by then: break_cow() repairs one mapping, and other mappings of the frame keep a KSM
      page without stable node, which never merges (page_address_in_vma() fails).
    - N <= max_page_sharing: q meets the first item and becomes the KSM page (two items of one
      unsplit folio only split it, and merge in the next scan); the stable node has room for all,
      so stable_tree_search() finds it for every later item and every item of a later scan. Other
      mappings of q's frame are appended as forked KSM pages. All that can be merged is.
    - N > max_page_sharing, every item on a frame of its own that can be merged, no two of one
      folio: nodes are filled one after the other in the order of the scan, and one item is left
      over if N is one more than a multiple of max_page_sharing (is_page_sharing_candidate()).
    - All items on stable nodes already: nothing changes. One stable node with room for all: all
      that can be merged join it.

    All splits happen in scan 2: a frame's folio is split when its first item is prepared for
    merging, which for f1 is when q meets it, and for any other frame at its first item. That holds
    too where two items of one folio have to wait for scan 3.
    """
    frame_count = len(facts.items)
    stable_frame = np.full(frame_count, -1, dtype=np.int64)
    is_open = np.zeros(len(contents), dtype=bool)
    wanted = np.diff(contents.starts) > 1
    wanted[contents.of_frame[facts.node & (contents.of_frame >= 0)]] = True
    lone = facts.first[contents.order[contents.starts[:-1][~wanted & ~elsewhere]]]
    wanted &= ~elsewhere
    if not wanted.any():
        unshared = lone[lone != NEVER]
        return ClosedForms(stable_frame, unshared, unshared[:0], split, is_open, 2)

    g = _Groups(contents, facts, wanted)
    has_node = g.any(facts.node[g.frame])
    at_rest = has_node & (g.total(facts.on_node[g.frame]) == g.n)
    one_node = _one_node_with_room(g, facts, rules) & ~at_rest
    lonely = ~has_node & (g.q == NEVER)
    first_blocked = ~has_node & ~lonely & g.any(g.is_f1 & g.blocked)
    meeting = ~has_node & ~lonely & ~first_blocked
    fits = meeting & (g.n <= rules.max_page_sharing)
    distinct = meeting & ~fits & ~g.any((g.items > 1) | g.blocked) & ~_has_folio_pair(g, facts)
    left = ~(at_rest | one_node | lonely | first_blocked | fits | distinct)
    left |= ~at_rest & ~lonely & g.any(facts.maybe_blocked[g.frame] & (g.items > 0))
    left |= ~at_rest & ~lonely & g.any(facts.opaque[g.frame])
    at_rest, one_node, lonely = at_rest & ~left, one_node & ~left, lonely & ~left
    first_blocked, fits, distinct = first_blocked & ~left, fits & ~left, distinct & ~left

    prepared = ~g.blocked & (g.items > 0) & (fits | first_blocked)[g.of]
    split[g.frame[prepared]] = np.where(g.is_f1, g.q[g.of], g.first)[prepared]
    joining = ~g.blocked & (g.items > 0) & ~facts.node[g.frame] & one_node[g.of]
    first_join = g.first if rules.checksum_before_stable_tree else np.full_like(g.first, -1)
    split[g.frame[joining]] = first_join[joining]
    distinct_leftover = _fill_nodes(
        g, distinct, frame_of_row, rules.max_page_sharing, stable_frame, split
    )

    pairs = fits & _meets_own_folio(g, facts, split, frame_of_row)
    uncertain = pairs & g.any(facts.mapcount[g.frame] > g.items)
    left |= uncertain
    fits &= ~uncertain
    kept = fits[g.of] & ~g.blocked & (g.items > 0)
    stable_frame[g.frame[kept]] = frame_of_row[np.minimum(g.q, len(frame_of_row) - 1)][g.of][kept]
    node_frame = np.maximum.reduceat(np.where(facts.node[g.frame], g.frame, -1), g.starts)
    kept = one_node[g.of] & ~g.blocked & (g.items > 0)
    stable_frame[g.frame[kept]] = node_frame[g.of][kept]
    kept = at_rest[g.of] & (g.items > 0)
    stable_frame[g.frame[kept]] = g.frame[kept]
    is_open[g.content[left]] = True

    orphaned = first_blocked[g.of] & ~g.is_f1 & ~g.blocked & (g.items > 0)
    orphaned &= facts.mapcount[g.frame] > 1
    unshared = np.concatenate([lone, g.p[lonely | first_blocked], distinct_leftover])
    late = pairs.any() or _has_stragglers(g, fits, candidates)
    return ClosedForms(
        stable_frame=stable_frame,
        unshared=unshared[unshared != NEVER],
        copied=g.first[orphaned],
        split=split,
        open=is_open,
        scans=3 if late else 2,
    )


def _one_node_with_room(g: _Groups, facts: FrameFacts, rules: Rules) -> Bools:
    nodes = g.total(facts.node[g.frame])
    occupied = g.any(facts.on_node[g.frame] > 0)
    one_node: Bools = (nodes == 1) & occupied & (g.n <= rules.max_page_sharing)
    return one_node


def _has_folio_pair(g: _Groups, facts: FrameFacts) -> Bools:
    """Contents with two frames in one large folio."""
    folio = facts.folio[g.frame]
    large = np.flatnonzero((folio >= 0) & (g.items > 0))
    found = np.zeros(len(g.content), dtype=bool)
    by_folio = large[np.lexsort((folio[large], g.of[large]))]
    same = (np.diff(folio[by_folio]) == 0) & (np.diff(g.of[by_folio]) == 0)
    found[g.of[by_folio[1:][same]]] = True
    return found


def _fill_nodes(
    g: _Groups,
    distinct: Bools,
    frame_of_row: npt.NDArray[np.uint32],
    max_page_sharing: int,
    stable_frame: Ints,
    split: Ints,
) -> Ints:
    """Fill stable nodes in scan order, one item per frame. Returns the rows left over."""
    members = np.flatnonzero(distinct[g.of] & (g.items > 0))
    members = members[np.lexsort((g.first[members], g.of[members]))]
    if not len(members):
        return g.first[:0]
    group, row, frame = g.of[members], g.first[members], g.frame[members]
    begin = np.searchsorted(group, group)
    rank = np.arange(len(members)) - begin
    opens = rank % max_page_sharing == 0
    last = np.append(group[1:] != group[:-1], True)
    left_over = opens & last
    opener = np.flatnonzero(opens & ~left_over)
    own_split = row.copy()
    own_split[opener] = row[opener + 1]
    own_split[left_over] = NEVER
    split[frame] = own_split
    node = np.arange(len(members)) - rank % max_page_sharing + 1
    kept = ~left_over
    stable_frame[frame[kept]] = frame[node[kept]]
    rows: Ints = row[left_over]
    return rows


def first_split_of_folio(facts: FrameFacts, split: Ints) -> Ints:
    """i64 per folio: the row at which the second full scan splits it, else NEVER."""
    folios = int(facts.folio.max(initial=-1)) + 1
    first = np.full(folios, NEVER, dtype=np.int64)
    frame = np.flatnonzero((split != NEVER) & (facts.folio >= 0))
    np.minimum.at(first, facts.folio[frame], split[frame])
    return first


def _meets_own_folio(
    g: _Groups, facts: FrameFacts, split: Ints, frame_of_row: npt.NDArray[np.uint32]
) -> Bools:
    """Contents whose first two frames belong to one folio that nothing split before they met."""
    p_folio, q_folio = (
        facts.folio[frame_of_row[np.minimum(row, len(frame_of_row) - 1)]] for row in (g.p, g.q)
    )
    found: Bools = (g.q != NEVER) & (p_folio >= 0) & (p_folio == q_folio)
    if found.any():
        found &= first_split_of_folio(facts, split)[p_folio] == g.q
    return found


def _has_stragglers(g: _Groups, fits: Bools, candidates: Candidates) -> bool:
    """True if items of some f1 pass before q comes, and so have to wait for scan 3."""
    waiting = g.is_f1 & (g.items > 1) & fits[g.of]
    if not waiting.any():
        return False
    after = np.full(int(g.frame.max()) + 1, NEVER, dtype=np.int64)
    until = np.full_like(after, -1)
    after[g.frame[waiting]] = g.first[waiting]
    until[g.frame[waiting]] = g.q[g.of[waiting]]
    known = candidates.frame < len(until)
    frame, row = candidates.frame[known], candidates.row_numbers()[known]
    return bool(((row > after[frame]) & (row < until[frame])).any())

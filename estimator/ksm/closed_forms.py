"""The contents whose state at rest does not depend on the order of the scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Numbers, each_piece, in_turn, pieces
from estimator.ksm.case import Case
from estimator.ksm.contents import first_split_of_folio
from estimator.ksm.frames import NEVER
from estimator.ksm.meetings import (
    Kind,
    Meeting,
    first_frame,
    first_rows,
    kinds_of,
    meetings,
    of_kind,
)
from estimator.ksm.turns import first_of_turns, scans_of_turns, take_turns, turns_of

_OVERTAKING_SCAN = 8


@dataclass(frozen=True)
class ClosedForms:
    """What the closed forms say, and what they leave open.

    ``stable_frame``: i32 per frame, the KSM frame that all its items map in the end, -1 if they
    are not merged. ``unshared``: rows whose item waits in the unstable tree. ``copied``: rows that
    map a copy made by break_cow() in the end. ``split``: i32 per frame, the row at which the second
    full scan splits its folio because of it, else NEVER. ``open``: bool per content, left to
    ``simulate.py``. ``scans``: full scans until at rest. ``late``: i32 rows, see ``closed_forms``.
    ``kept_apart``: pages that would be in pages_sharing if smart_scan did not keep them apart.
    """

    stable_frame: Numbers
    unshared: Numbers
    copied: Numbers
    split: Numbers
    open: Mask
    scans: int
    late: Numbers
    kept_apart: int


def closed_forms(
    case: Case, elsewhere: Mask, split: Numbers, *, in_time: bool = False
) -> ClosedForms:
    """Solve every content whose state at rest does not depend on the order of the scan.

    ``elsewhere``: bool per content, solved by other rules. ``split``: see ``ClosedForms``; as other
    rules have filled it, and extended here. ``in_time``: leave open too what comes to rest in other
    steps than those that follow, and fill ``ClosedForms.late``.

    Let a content have N items, f1 the frame of the first item in the scan, and q the first item
    that can be merged and is on another frame than f1.

    - No q: each search meets ``page == tree_page`` in unstable_tree_search_insert() or can't be
      merged. The first item stays in the unstable tree, N-1 are volatile. No folio is split.
    - First item can't be merged, and break_cow() makes those that fail as new (7.3), so that
      smart_scan lets them meet in scan 8, which skips the first: see ``_overtaken``.
    - First item can't be merged otherwise: it is the tree item in every scan, each attempt to merge
      with it fails in try_to_merge_two_pages(). One unshared, N-1 volatile. The scanned page was a
      KSM page by then: break_cow() repairs one mapping, and other mappings of the frame keep a KSM
      page without stable node, which never merges (page_address_in_vma() fails).
    - N <= max_page_sharing: q meets the first item and becomes the KSM page (two items of one
      unsplit folio only split it, and merge in the next scan); the stable node has room for all,
      so stable_tree_search() finds it for every later item and every item of a later scan. Other
      mappings of q's frame are appended as forked KSM pages. All that can be merged is.
    - N > max_page_sharing, every item on a frame of its own that can be merged, no two of one
      folio: nodes are filled one after the other in the order of the scan, and one item is left
      over if N is one more than a multiple of max_page_sharing (is_page_sharing_candidate()).
    - smart_scan never looks at two of its frames in one scan (``turns.py``): nothing merges, and
      the first item of each turn waits in the tree of the scans that look at it.
    - All items on stable nodes already: nothing changes. One stable node with room for all: all
      that can be merged join it.

    What merges does so in scan 2, but for the ``late`` ones that need scan 3: other mappings of f1
    that the scan passes before q; and what joins in scan 1: mappings of a KSM page, and all that
    joins a stable node where no checksum is needed for that. What waits in the unstable tree does
    so after each scan that processes it.

    All splits happen in scan 2: a frame's folio is split when its first item is prepared for
    merging, which for f1 is when q meets it, and for any other frame at its first item. That holds
    too where two items of one folio have to wait for scan 3.
    """
    facts, contents = case.facts, case.contents
    m = meetings(case)
    kind = kinds_of(case, m, elsewhere)
    turns = turns_of(case)
    if turns is not None:
        take_turns(case, turns, kind)
    crowded = of_kind(kind, Kind.CROWDED)
    kind[crowded] = Kind.OPEN
    alone = _all_distinct(case, crowded)
    kind[alone] = Kind.CROWDED
    if in_time:
        kind[_out_of_step(case, kind)] = Kind.OPEN
    overtaken, meeting_frame = _overtaken(case, kind)
    if in_time:
        kind[overtaken] = Kind.OPEN
        overtaken, meeting_frame = overtaken[:0], meeting_frame[:0]

    if facts.folio.max(initial=-1) >= 0:
        _note_splits(case, m, kind, split)
    stable_frame = np.full(len(facts.items), -1, dtype=np.int32)
    left_over = _fill_nodes(case, alone, stable_frame, split)
    pairs = _meet_in_one_folio(case, m, of_kind(kind, Kind.FITS), split)
    waits = len(pairs) > 0
    kind[pairs if in_time else _with_other_mappings(case, pairs)] = Kind.OPEN

    _merge(case, m, kind, (overtaken, meeting_frame), stable_frame)
    on_node = np.flatnonzero(facts.on_node > 0)
    on_node = on_node[kind[contents.of_frame[on_node]] == Kind.AT_REST]
    stable_frame[on_node] = on_node

    first_blocked, lonely = (of_kind(kind, k) for k in (Kind.FIRST_BLOCKED, Kind.LONELY))
    stragglers = _stragglers(case, m, kind)
    late = np.concatenate([left_over[:0], *stragglers]) if in_time else left_over[:0]
    scans = 3 if waits or len(late) or any(map(len, stragglers)) else 2
    in_turns, kept_apart = left_over[:0], 0
    if turns is not None:
        alone = of_kind(kind, Kind.APART)
        kept_apart = int(m.items[alone].sum(dtype=np.int64)) - len(alone)
        scans = max(scans, scans_of_turns(turns, kind))
        apart = (kind == Kind.APART) | (turns.out_of_step & (kind == Kind.LONELY))
        in_turns = first_of_turns(case, turns, apart)
    return ClosedForms(
        stable_frame=stable_frame,
        unshared=np.concatenate(
            [*(first_rows(case, some) for some in (lonely, first_blocked)), left_over, in_turns]
        ),
        copied=_repaired(case, first_blocked),
        split=split,
        open=kind == Kind.OPEN,
        scans=_OVERTAKING_SCAN if len(overtaken) else scans,
        late=late,
        kept_apart=kept_apart,
    )


def _all_distinct(case: Case, chosen: Numbers) -> Numbers:
    """Those of the contents with every item on a frame of its own, and no two in one folio."""
    facts = case.facts
    if not len(chosen):
        return chosen
    frame, begin, of = case.contents.frames_of(chosen)
    mixed = np.logical_or.reduceat((facts.items[frame] > 1) | facts.blocked[frame], begin)
    large = np.flatnonzero((facts.folio[frame] >= 0) & (facts.items[frame] > 0) & ~mixed[of])
    large = large[np.lexsort((facts.folio[frame[large]], of[large]))]
    folio, group = facts.folio[frame[large]], of[large]
    paired = (folio[1:] == folio[:-1]) & (group[1:] == group[:-1])
    mixed[group[1:][paired]] = True
    return chosen[~mixed]


def _overtaken(case: Case, kind: npt.NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Contents whose blocked first item is overtaken, and the frame that the others map in the end.

    The blocked items are processed in scans 2, 3, 4, 6, 9. The others, made as new in scans 2, 4
    and 6, have their checksum stored in 3, 5 and 7, and look for a partner in 4, 6 and 8: then they
    find each other. They need a frame each, whose other mappings break_cow() would leave a KSM page
    without node, and one more place in the node, for which the blocked ones try from then on.
    Sets the kind of these contents, and of those that need the simulation.
    """
    rules, facts = case.rules, case.facts
    chosen = np.flatnonzero(kind == Kind.FIRST_BLOCKED)
    if not len(chosen) or not (rules.break_cow_forgets and rules.smart_scan):
        return chosen[:0], chosen[:0]
    frame, begin, of = case.contents.frames_of(chosen)
    used = facts.items[frame] > 0
    free = used & ~facts.blocked[frame]
    count = np.add.reduceat(free, begin, dtype=np.int64)
    shared = free & ((facts.items[frame] > 1) | (facts.mapcount[frame] > 1))
    never_skipped = used & facts.blocked[frame] & facts.ksm[frame]
    odd = np.logical_or.reduceat(shared | never_skipped, begin)
    simple = ~odd & (count < rules.max_page_sharing)
    kind[chosen[count >= 2]] = Kind.OPEN
    overtaken = chosen[(count >= 2) & simple]
    kind[overtaken] = Kind.OVERTAKEN
    rank = np.cumsum(free) - np.append(0, np.cumsum(count))[:-1][of]
    second = free & (rank == 2) & (kind[chosen[of]] == Kind.OVERTAKEN)
    return overtaken, frame[second]


def _merge(
    case: Case,
    m: Meeting,
    kind: npt.NDArray[np.uint8],
    overtaken: tuple[Ints, Ints],
    stable_frame: Numbers,
) -> None:
    """Fill ``stable_frame`` for contents of one node. ``overtaken``: what ``_overtaken`` gives."""
    facts, contents, frame_of_row = case.facts, case.contents, case.frame_of_row
    ksm_frame = np.full(len(contents) + 1, -1, dtype=np.int32)
    met, joined = of_kind(kind, Kind.FITS), of_kind(kind, Kind.ONE_NODE)

    def note_meeting(piece: slice) -> None:
        ksm_frame[met[piece]] = frame_of_row.take(m.second.take(met[piece]))

    each_piece(len(met), note_meeting)
    ksm_frame[joined] = m.node_frame[joined]
    ksm_frame[overtaken[0]] = overtaken[1]

    def merge(piece: slice) -> None:
        solved = ksm_frame.take(contents.of_frame[piece])
        can_be = (solved >= 0) & ~facts.blocked[piece] & (facts.items[piece] > 0)
        np.copyto(stable_frame[piece], solved, where=can_be)

    each_piece(len(stable_frame), merge)


def _note_splits(case: Case, m: Meeting, kind: npt.NDArray[np.uint8], split: Numbers) -> None:
    facts, of_frame = case.facts, case.contents.of_frame
    in_scan_2 = np.isin(np.arange(len(Kind)), (Kind.FITS, Kind.FIRST_BLOCKED, Kind.OVERTAKEN))
    for piece in pieces(len(split)):
        there = (facts.folio[piece] >= 0) & facts.known[piece] & (facts.items[piece] > 0)
        large = np.flatnonzero(there & ~facts.blocked[piece]) + piece.start
        of_large = kind[of_frame[large]]
        prepared = large[in_scan_2[of_large]]
        split[prepared] = facts.first[prepared]
        joining = large[of_large == Kind.ONE_NODE]
        split[joining] = facts.first[joining] if case.rules.checksum_before_stable_tree else -1
    met = of_kind(kind, Kind.FITS)
    met = met[facts.folio[first_frame(case, met)] >= 0]
    split[first_frame(case, met)] = m.second[met]


def _fill_nodes(case: Case, chosen: Numbers, stable_frame: Numbers, split: Numbers) -> Numbers:
    """Fill stable nodes in scan order, one item per frame. Returns the rows left over."""
    facts = case.facts
    limit = min(case.rules.max_page_sharing, NEVER)  # more frames than that are not taken
    frame, begin, of = case.contents.frames_of(chosen)
    rank = np.arange(len(frame), dtype=np.int32) - begin.astype(np.int32).take(of)
    used = facts.items[frame] > 0
    frame, rank, of = frame[used], rank[used], of[used]
    row = facts.first[frame]
    opens = rank % limit == 0
    last = np.append(of[1:] != of[:-1], True)[: len(of)]
    left_over = opens & last
    opener = np.flatnonzero(opens & ~left_over)
    when = row.copy()
    when[opener] = row[opener + 1]
    when[left_over] = NEVER
    large = facts.folio[frame] >= 0
    if large.any():
        split[frame[large]] = when[large]
    node = np.arange(1, len(rank) + 1, dtype=np.int32) - rank % limit
    np.minimum(node, max(len(rank) - 1, 0), out=node)
    stable_frame[frame] = np.where(left_over, np.int32(-1), frame.take(node))
    return row[left_over]


def _meet_in_one_folio(case: Case, m: Meeting, chosen: Numbers, split: Numbers) -> Numbers:
    """Contents whose first two frames belong to one folio that nothing split before they met."""
    facts = case.facts
    if facts.folio.max(initial=-1) < 0:
        return chosen[:0]
    folio = facts.folio.take(first_frame(case, chosen))
    same = (folio >= 0) & (folio == facts.folio.take(case.frame_of_row[m.second[chosen]]))
    chosen, folio = chosen[same], folio[same]
    return chosen[first_split_of_folio(facts, split)[folio] == m.second[chosen]]


def _with_other_mappings(case: Case, chosen: Numbers) -> Numbers:
    """Those of the contents with mappings that are no items: they show which frame is kept."""
    if not len(chosen):
        return chosen
    frame, begin, _ = case.contents.frames_of(chosen)
    others = case.facts.mapcount[frame] > case.facts.items[frame]
    return chosen[np.logical_or.reduceat(others, begin)]


def _repaired(case: Case, chosen: Numbers) -> Numbers:
    """Rows that break_cow() gave a page of their own, of contents whose first item is blocked."""
    facts = case.facts
    frame, _, of = case.contents.frames_of(chosen)
    tried = (
        (frame != first_frame(case, chosen)[of]) & ~facts.blocked[frame] & (facts.items[frame] > 0)
    )
    rows: Numbers = facts.first[frame[tried & (facts.mapcount[frame] > 1)]]
    return rows


def _out_of_step(case: Case, kind: npt.NDArray[np.uint8]) -> Ints:
    """Contents with items that smart_scan processes when it skips others of the content.

    It never skips KSM pages without node, nor pages that break_cow() made as new (7.3).
    """
    if not case.rules.smart_scan:
        return np.zeros(0, dtype=np.int64)
    facts = case.facts
    orphans = facts.ksm & ~facts.node & facts.known & (facts.items > 0)
    apart = kind == Kind.FIRST_BLOCKED
    apart[case.contents.of_frame[orphans]] = True
    return np.flatnonzero(apart & (kind != Kind.ELSEWHERE))


def _stragglers(case: Case, m: Meeting, kind: npt.NDArray[np.uint8]) -> Iterator[Numbers]:
    """Rows of items of some f1 that pass before q comes, and so have to wait for scan 3."""
    facts, contents, candidates = case.facts, case.contents, case.candidates

    def early(piece: slice) -> Numbers:
        frame, row = candidates.frame[piece], candidates.row_numbers(piece)
        later = facts.first.take(frame) < row  # than the first item of the frame
        frame, row = frame[later], row[later]
        content = contents.of_frame.take(frame)
        before_q = (row < m.second.take(content)) & (kind.take(content) == Kind.FITS)
        return row[before_q & (first_frame(case, content) == frame)]

    return in_turn(early, pieces(len(candidates.frame)))

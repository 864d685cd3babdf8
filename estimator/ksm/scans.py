"""When it happens: what every full scan of ksmd changes, and what the counters show after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, Ints, Mask, count_where, made, move_up, pieces, rows_where
from estimator.ksm.accounting import general_profit_bytes, lone_dups
from estimator.ksm.case import Case
from estimator.ksm.contents import first_split_of_folio
from estimator.ksm.fate import Fate
from estimator.ksm.frames import NEVER, live_node_frames
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.readings import Reading, processes_all
from estimator.ksm.timing import Timing
from estimator.snapshot.flags import MappingFlag

Scans = npt.NDArray[np.uint16]  # numbers of full scans, from 1; 0: before them, or never

MERGING = 2
"""The full scan in which pages merge first: the one before stores their checksums."""
LATEST = 10_000
"""The last full scan that a forecast can follow."""
_NONE = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Times:
    """In which full scan what happened.

    Per row of ``mappings``: ``settled_in``, when it came to its outcome, if that is MERGED (0: it
    was on a stable node already), ZERO_PAGE or SPLIT_AWAY. ``freed_in``: per row that ended as one
    of the last two, in order, when its rmap_item was freed: the walk has to come by. ``nodes_in``:
    per frame that is the page of a stable node with items, in order of frame_id, when it got its
    first item. ``gone_in``: per frame that becomes free, in that order. ``split_in``: per large
    folio; ``split_row``: i64, the row at which it was split. ``left_behind``: i64 rows whose page
    vanished at their own visit in scan 2, the first one of each content that has no item to wait in
    the tree: searches go on after that, and leave them in the unstable tree until the next scan.
    ``gone_in_tree``: i64, the first row of any content that was left there so, even if others
    waited behind it; empty if there is none.
    """

    settled_in: Scans
    freed_in: Scans
    nodes_in: Scans
    gone_in: Scans
    split_in: Scans
    split_row: Ints
    left_behind: Ints
    gone_in_tree: Ints


def times_of(case: Case, timing: Timing, fate: Fate, prediction: Prediction) -> Times:
    """When what ``prediction`` says came about."""
    empty = prediction.empty
    split_in, split_row = _splits(case, timing)
    settled_in = _settled_in(case, timing, fate, split_in, empty)
    left_behind, in_tree = _left_behind(case, timing, fate, split_row)
    return Times(
        settled_in=settled_in,
        freed_in=_freed_in(case, timing, fate, settled_in, split_row, empty),
        nodes_in=_nodes_in(timing, fate, settled_in, empty),
        gone_in=_gone_in(case, fate, prediction.freed.gone, settled_in, split_in, empty),
        split_in=split_in,
        split_row=split_row,
        left_behind=left_behind,
        gone_in_tree=in_tree[:1],
    )


def _splits(case: Case, timing: Timing) -> tuple[Scans, Ints]:
    """Per large folio, the scan and the row at which it was split: by the first who does."""
    row = first_split_of_folio(case.facts, timing.split).astype(np.int64)
    scan = np.where(row == NEVER, 0, MERGING).astype(np.uint16)
    scan[row < 0] = 1
    if timing.ordered is not None:
        for folio, (in_scan, at) in timing.ordered.simulation.splits.items():
            if not scan[folio] or (in_scan, at) < (scan[folio], row[folio]):
                scan[folio], row[folio] = in_scan, at
    return scan, row


def _settled_in(case: Case, timing: Timing, fate: Fate, split_in: Scans, empty: Empty) -> Scans:
    facts, frame, flags = case.facts, case.frame_of_row, case.mapping_flags
    with_nodes = facts.node.any()
    settled = empty(len(fate.outcome), np.uint16)
    for piece in pieces(len(settled)):
        outcome, here = fate.outcome[piece], settled[piece]
        merged = outcome == Outcome.MERGED
        here[:] = np.where(merged | (outcome == Outcome.ZERO_PAGE), MERGING, 0)
        away = np.flatnonzero(outcome == Outcome.SPLIT_AWAY)
        here[away] = split_in[facts.folio[frame[piece][away]]]
    settled[timing.late] = MERGING + 1
    for piece in pieces(len(settled) if with_nodes else 0):
        here, to = settled[piece], fate.stable_frame[piece]
        rows = np.flatnonzero(fate.outcome[piece] == Outcome.MERGED)
        rows = rows[facts.node[to[rows]]]
        forked = to[rows] == frame[piece][rows]
        here[rows[forked | (not case.rules.checksum_before_stable_tree)]] = 1
        here[rows[forked & ((flags[piece][rows] & MappingFlag.MERGED) != 0)]] = 0
    if timing.ordered is not None:
        settled[timing.ordered.rows] = timing.ordered.simulation.settled_in
    return settled


def _freed_in(
    case: Case, timing: Timing, fate: Fate, settled_in: Scans, split_row: Ints, empty: Empty
) -> Scans:
    """What the walk has passed when the page vanishes is freed in the next scan."""
    rows = vanishing_rows(fate, empty)
    freed = empty(len(rows), np.uint16)
    for piece in pieces(len(rows)):
        here, freed_here = rows[piece], freed[piece]
        freed_here[:] = settled_in[here] + np.uint16(1)
        away = fate.outcome[here] == Outcome.SPLIT_AWAY
        folio = case.facts.folio[case.frame_of_row[here[away]]]
        freed_here[away] -= (here[away] > split_row[folio]).astype(np.uint16)
    if timing.ordered is not None:
        ordered = timing.ordered.rows
        vanished = vanishes(fate.outcome[ordered])
        place = np.searchsorted(rows, ordered[vanished])
        freed[place] = timing.ordered.simulation.freed_in[vanished]
    return freed


def _left_behind(case: Case, timing: Timing, fate: Fate, split_row: Ints) -> tuple[Ints, Ints]:
    """See ``Times``; the second are all rows that were left in the tree, ascending.

    cmp_and_merge_page() goes on when try_to_merge_with_zero_page() fails. Where another item of the
    content is the tree item, they are not inserted; which of the two it is makes no difference to a
    counter.
    """
    if not case.rules.use_zero_pages or not len(split_row):
        return (none := np.zeros(0, dtype=np.int64)), none
    frame, folio, outcome = case.frame_of_row, case.facts.folio, fate.outcome
    of_frame = case.contents.of_frame

    def at_own_visit(piece: slice) -> Mask:
        away: Mask = outcome[piece] == Outcome.SPLIT_AWAY
        rows = np.flatnonzero(away)
        away[rows] = split_row[folio[frame[piece][rows]]] == rows + piece.start
        return away

    rows = rows_where(len(outcome), at_own_visit)
    if timing.ordered is not None:
        rows = np.setdiff1d(rows, timing.ordered.rows, assume_unique=True)
    content, first = np.unique(of_frame[frame[rows]], return_index=True)
    rows = rows[first]
    waiting = np.full(len(content), NEVER, np.int64)  # the first row that waits in the tree
    for piece in pieces(len(outcome) if len(content) else 0):
        unshared = np.flatnonzero(outcome[piece] == Outcome.UNSHARED)
        of_row = of_frame[frame[piece][unshared]]
        place = np.minimum(np.searchsorted(content, of_row), len(content) - 1)
        same = content[place] == of_row
        np.minimum.at(waiting, place[same], unshared[same] + piece.start)
    return rows[waiting == NEVER], np.sort(rows[rows < waiting])


def vanishes(outcome: npt.NDArray[np.uint8]) -> Mask:
    """Which of the outcomes leave no page to visit."""
    gone: Mask = (outcome == Outcome.ZERO_PAGE) | (outcome == Outcome.SPLIT_AWAY)
    return gone


def vanishing_rows(fate: Fate, empty: Empty) -> Ints:
    """The rows, i64, that leave no page to visit: those that ``Times.freed_in`` is of."""
    return rows_where(len(fate.outcome), lambda piece: vanishes(fate.outcome[piece]), empty)


def _nodes_in(timing: Timing, fate: Fate, settled_in: Scans, empty: Empty) -> Scans:
    first = empty(len(fate.node), np.uint16)
    first[:] = MERGING
    ordered = np.zeros(0, np.int64)
    if timing.ordered is not None:
        ordered = timing.ordered.rows[fate.stable_frame[timing.ordered.rows] >= 0]
        first[fate.stable_frame[ordered]] = _NONE
    for piece in pieces(len(settled_in)):
        to, settled = fate.stable_frame[piece], settled_in[piece]
        other = (to >= 0) & (settled != MERGING)
        np.minimum.at(first, to[other], settled[other])
    np.minimum.at(first, fate.stable_frame[ordered], settled_in[ordered])
    return move_up(first, fate.node)


def _gone_in(
    case: Case, fate: Fate, gone: Mask, settled_in: Scans, split_in: Scans, empty: Empty
) -> Scans:
    """A frame is free when its last mapping has left it, or its folio's split took them all."""
    frame, folio = case.frame_of_row, case.facts.folio
    last, chosen = empty(len(gone), np.uint16), empty(len(gone), np.bool_)
    last[:], chosen[:] = MERGING, False
    for piece in pieces(len(settled_in)):
        settled = settled_in[piece]
        chosen[frame[piece][(settled != MERGING) & (settled > 0)]] = True
    last[chosen] = 0
    for piece in pieces(len(settled_in)):
        rows = np.flatnonzero(chosen[frame[piece]])
        np.maximum.at(last, frame[piece][rows], settled_in[piece][rows])
    for piece in pieces(len(gone) if len(split_in) else 0):
        by_split = np.flatnonzero(gone[piece] & fate.vanished[piece])
        last[piece][by_split] = split_in[folio[piece][by_split]]
    return move_up(last, gone)


def scan_table(
    case: Case, timing: Timing, fate: Fate, prediction: Prediction, times: Times, scans: int
) -> pd.DataFrame:
    """One row per full scan, 1 to ``scans``; see ``Forecast.scans`` for the columns."""
    rules, outcome = case.rules, fate.outcome
    most = max(scans, *(int(t.max(initial=0)) for t in _when(times))) + 1

    def by_then(
        when: npt.NDArray[np.uint16] | Ints, chosen: Callable[[slice], Mask] | None = None
    ) -> Ints:
        """i64, one entry per scan from 0 on: how many of ``when`` are no later."""
        return np.cumsum(_tally(when, most + 1, chosen))[: scans + 1]

    def of_outcome(wanted: Outcome) -> Ints:
        return by_then(times.settled_in, lambda piece: outcome[piece] == wanted)

    merged, replaced = of_outcome(Outcome.MERGED), of_outcome(Outcome.ZERO_PAGE)
    nodes = by_then(times.nodes_in)
    all_items = count_where(len(outcome), lambda piece: outcome[piece] > Outcome.UNKNOWN)
    items = all_items - by_then(times.freed_in)
    before = prediction.counters["ksm_zero_pages"]
    if rules.counts_zero_pages:
        in_all = count_where(len(outcome), lambda piece: outcome[piece] == Outcome.ZERO_PAGE)
        zero_pages = before + replaced - in_all
    else:
        zero_pages = np.zeros_like(replaced)

    number = np.arange(1, scans + 1)
    in_step = np.array(
        [processes_all(n, smart_scan=rules.smart_scan) for n in number.tolist()], np.bool_
    )
    found = [_reading(timing, n) for n in number.tolist()]
    alone = int(np.count_nonzero(alone_in_tree(timing, fate, prediction.empty)))
    unshared = np.where(in_step & (number > 1), alone, 0)
    unshared[number == MERGING] += len(times.left_behind)
    unshared += np.array([reading.unshared for reading in found], np.int64)
    processed = np.where(in_step, items[1:], merged[:-1])
    processed += np.array([reading.processed for reading in found], np.int64)
    chains, dups = _chains(case, fate, times.nodes_in, most, scans, prediction.empty)
    copies_made, copies_freed = copies(timing)
    freed = by_then(times.gone_in) - by_then(copies_made) + by_then(copies_freed)
    unmapped = np.bincount(times.split_in, prediction.freed.unmapped, most + 1)
    freed = (freed + np.cumsum(unmapped).astype(np.int64)[: scans + 1])[1:]
    sharing = (merged - nodes)[1:]
    return pd.DataFrame(
        {
            "full_scans": number,
            "pages_shared": nodes[1:],
            "pages_sharing": sharing,
            "pages_unshared": unshared,
            "pages_volatile": items[1:] - merged[1:] - unshared,
            "ksm_zero_pages": zero_pages[1:],
            "stable_node_chains": chains,
            "stable_node_dups": dups,
            "ksm_rmap_items": items[1:],
            "general_profit": [
                general_profit_bytes(rules, *numbers)
                for numbers in zip(
                    sharing.tolist(), zero_pages[1:].tolist(), items[1:].tolist(), strict=True
                )
            ],
            "pages_scanned": np.cumsum(processed),
            "pages_skipped": np.cumsum(items[1:] - processed),
            "frames_freed": freed,
            "bytes_saved": freed * rules.page_bytes,
        }
    )


def alone_in_tree(timing: Timing, fate: Fate, empty: Empty) -> Mask:
    """Bool per row: its item is in the unstable tree after each scan that processes it.

    Without those that the simulation tells of.
    """
    outcome = fate.outcome
    alone = made(len(outcome), np.bool_, lambda piece: outcome[piece] == Outcome.UNSHARED, empty)
    if timing.ordered is not None:
        simulated = timing.ordered.simulation.outcome == Outcome.UNSHARED
        alone[timing.ordered.rows[simulated]] = False
    return alone


def _when(times: Times) -> tuple[Scans, ...]:
    return times.settled_in, times.freed_in, times.nodes_in, times.gone_in, times.split_in


def _tally(
    when: npt.NDArray[np.uint16] | Ints, size: int, chosen: Callable[[slice], Mask] | None = None
) -> Ints:
    counts = np.zeros(size, np.int64)
    for piece in pieces(len(when)):
        here = when[piece] if chosen is None else when[piece][chosen(piece)]
        counts += np.bincount(here, minlength=size)
    return counts


def _reading(timing: Timing, scan: int) -> Reading:
    return timing.ordered.simulation.readings.after(scan) if timing.ordered else Reading()


def copies(timing: Timing) -> tuple[Ints, Ints]:
    """The scans in which break_cow() made copies, and in which such copies became free again."""
    made = np.full(len(timing.copied), MERGING, dtype=np.int64)
    if timing.ordered is None:
        return made, made[:0]
    simulation = timing.ordered.simulation
    return np.append(made, simulation.copies_made_in), simulation.copies_freed_in


def _chains(
    case: Case, fate: Fate, nodes_in: Scans, most: int, scans: int, empty: Empty
) -> tuple[Ints, Ints]:
    """Chains and their dups after each scan, see ``stable_nodes`` in ``accounting.py``.

    The second node of a content makes a chain of the first.
    """
    when = empty(len(fate.node), np.uint16)
    when[:] = _NONE
    when[fate.node] = nodes_in
    when[live_node_frames(case.snapshot)] = 0
    of_frame = case.contents.of_frame
    nodes = empty(len(case.contents) + 1, np.int32)  # of no content: at the end
    nodes[:] = 0
    for piece in pieces(len(when)):
        np.add.at(nodes, of_frame[piece][when[piece] != _NONE], np.int32(1))
    nodes[-1] = 0

    def chained(piece: slice) -> Mask:
        there: Mask = (when[piece] != _NONE) & (nodes[of_frame[piece]] > 1)
        return there

    frame = rows_where(len(when), chained)
    content = of_frame[frame]
    order = np.lexsort((when[frame], content))
    frame, content = frame[order], content[order]
    starts = np.flatnonzero(np.append(True, content[1:] != content[:-1])[: len(content)])
    joined = when[frame].astype(np.int64)
    chained_in = joined[starts + 1]
    joined[starts] = chained_in
    chains, dups = (np.cumsum(_tally(t, most + 1))[1 : scans + 1] for t in (chained_in, joined))
    alone = len(lone_dups(case, fate))
    return chains + alone, dups + alone

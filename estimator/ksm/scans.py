"""When it happens: what every full scan of ksmd changes, and what the counters show after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Mask, pieces, take
from estimator.ksm.accounting import general_profit_bytes
from estimator.ksm.case import Case
from estimator.ksm.contents import first_split_of_folio
from estimator.ksm.fate import Fate, Solved
from estimator.ksm.frames import NEVER, live_node_frames
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.readings import Reading, processes_all
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
    folio. ``left_behind``: i64 rows whose page vanished at their own visit in scan 2, the first one
    of each content that has no item to wait in the tree: searches go on after that, and leave them
    in the unstable tree until the next scan. ``gone_in_tree``: i64, the first row of any content
    that was left there so, even if others waited behind it; empty if there is none.
    """

    settled_in: Scans
    freed_in: Scans
    nodes_in: Scans
    gone_in: Scans
    split_in: Scans
    left_behind: Ints
    gone_in_tree: Ints


def times_of(case: Case, solved: Solved, fate: Fate, prediction: Prediction) -> Times:
    """When what ``prediction`` says came about; ``solved`` is so in time (``solve``)."""
    split_in, split_row = splits(case, solved)
    settled_in = _settled_in(case, solved, fate, split_in)
    left_behind, in_tree = _left_behind(case, solved, fate, split_row)
    return Times(
        settled_in=settled_in,
        freed_in=_freed_in(case, solved, fate, settled_in, split_row),
        nodes_in=_nodes_in(solved, fate, settled_in),
        gone_in=_gone_in(case, fate, prediction.freed.gone, settled_in, split_in),
        split_in=split_in,
        left_behind=left_behind,
        gone_in_tree=in_tree[:1],
    )


def splits(case: Case, solved: Solved) -> tuple[Scans, Ints]:
    """Per large folio, the scan and the row at which it was split: by the first who does."""
    row = first_split_of_folio(case.facts, solved.closed.split).astype(np.int64)
    scan = np.where(row == NEVER, 0, MERGING).astype(np.uint16)
    scan[row < 0] = 1
    if solved.ordered is not None:
        for folio, (in_scan, at) in solved.ordered.simulation.splits.items():
            if not scan[folio] or (in_scan, at) < (scan[folio], row[folio]):
                scan[folio], row[folio] = in_scan, at
    return scan, row


def _settled_in(case: Case, solved: Solved, fate: Fate, split_in: Scans) -> Scans:
    facts, frame = case.facts, case.frame_of_row
    merged = fate.outcome == Outcome.MERGED
    settled = np.where(merged | (fate.outcome == Outcome.ZERO_PAGE), MERGING, 0).astype(np.uint16)
    settled[solved.closed.late] = MERGING + 1
    if facts.node.any():
        rows = np.flatnonzero(merged)
        rows = rows[take(facts.node, fate.stable_frame[rows])]
        forked = fate.stable_frame[rows] == frame[rows]
        settled[rows[forked | (not case.rules.checksum_before_stable_tree)]] = 1
        on_node = forked & ((case.mapping_flags[rows] & MappingFlag.MERGED) != 0)
        settled[rows[on_node]] = 0
    away = np.flatnonzero(fate.outcome == Outcome.SPLIT_AWAY)
    settled[away] = split_in[facts.folio[frame[away]]]
    if solved.ordered is not None:
        settled[solved.ordered.rows] = solved.ordered.simulation.settled_in
    return settled


def _freed_in(case: Case, solved: Solved, fate: Fate, settled_in: Scans, split_row: Ints) -> Scans:
    """What the walk has passed when the page vanishes is freed in the next scan."""
    rows = np.flatnonzero(vanishes(fate.outcome))
    freed = settled_in[rows] + np.uint16(1)
    away = fate.outcome[rows] == Outcome.SPLIT_AWAY
    folio = case.facts.folio[case.frame_of_row[rows[away]]]
    freed[away] -= (rows[away] > split_row[folio]).astype(np.uint16)
    if solved.ordered is not None:
        ordered = solved.ordered.rows
        vanished = vanishes(fate.outcome[ordered])
        place = np.searchsorted(rows, ordered[vanished])
        freed[place] = solved.ordered.simulation.freed_in[vanished]
    return freed


def _left_behind(case: Case, solved: Solved, fate: Fate, split_row: Ints) -> tuple[Ints, Ints]:
    """See ``Times``; the second are all rows that were left in the tree, ascending.

    cmp_and_merge_page() goes on when try_to_merge_with_zero_page() fails. Where another item of the
    content is the tree item, they are not inserted; which of the two it is makes no difference to a
    counter.
    """
    if not case.rules.use_zero_pages:
        return (none := np.zeros(0, dtype=np.int64)), none
    rows = np.flatnonzero(fate.outcome == Outcome.SPLIT_AWAY)
    rows = rows[split_row[case.facts.folio[case.frame_of_row[rows]]] == rows]
    if solved.ordered is not None:
        rows = np.setdiff1d(rows, solved.ordered.rows, assume_unique=True)
    of_frame = case.contents.of_frame
    content, first = np.unique(of_frame[case.frame_of_row[rows]], return_index=True)
    rows = rows[first]
    unshared = np.flatnonzero(fate.outcome == Outcome.UNSHARED)
    waiting = of_frame[case.frame_of_row[unshared]]
    before = np.isin(content, waiting)
    in_tree = ~before
    for place in np.flatnonzero(before):
        in_tree[place] = rows[place] < unshared[waiting == content[place]].min()
    return rows[~before], np.sort(rows[in_tree])


def vanishes(outcome: npt.NDArray[np.uint8]) -> Mask:
    """Which of the outcomes leave no page to visit."""
    gone: Mask = (outcome == Outcome.ZERO_PAGE) | (outcome == Outcome.SPLIT_AWAY)
    return gone


def _nodes_in(solved: Solved, fate: Fate, settled_in: Scans) -> Scans:
    first = np.full(len(fate.node), MERGING, dtype=np.uint16)
    rows = np.flatnonzero((fate.stable_frame >= 0) & (settled_in != MERGING))
    if solved.ordered is not None:
        ordered = solved.ordered.rows[fate.stable_frame[solved.ordered.rows] >= 0]
        first[fate.stable_frame[ordered]] = _NONE
        rows = np.concatenate([rows, ordered])
    np.minimum.at(first, fate.stable_frame[rows], settled_in[rows])
    return first[fate.node]


def _gone_in(case: Case, fate: Fate, gone: Mask, settled_in: Scans, split_in: Scans) -> Scans:
    """A frame is free when its last mapping has left it, or its folio's split took them all."""
    frame, folio = case.frame_of_row, case.facts.folio
    last = np.full(len(gone), MERGING, dtype=np.uint16)
    other = np.flatnonzero((settled_in != MERGING) & (settled_in > 0))
    if len(other):
        chosen = np.zeros_like(gone)
        chosen[frame[other]] = True
        last[chosen] = 0
        rows = np.flatnonzero(take(chosen, frame))
        np.maximum.at(last, frame[rows], settled_in[rows])
    by_split = np.flatnonzero(gone & fate.vanished)
    last[by_split] = split_in[folio[by_split]]
    return last[gone]


def scan_table(
    case: Case, solved: Solved, fate: Fate, prediction: Prediction, times: Times, scans: int
) -> pd.DataFrame:
    """One row per full scan, 1 to ``scans``; see ``Forecast.scans`` for the columns."""
    rules, outcome = case.rules, fate.outcome
    most = max(scans, *(int(t.max(initial=0)) for t in _when(times))) + 1

    def by_then(when: npt.NDArray[np.uint16] | Ints) -> Ints:
        """i64, one entry per scan from 0 on: how many of ``when`` are no later."""
        return np.cumsum(_tally(when, most + 1))[: scans + 1]

    merged = by_then(times.settled_in[outcome == Outcome.MERGED])
    nodes = by_then(times.nodes_in)
    replaced = by_then(times.settled_in[outcome == Outcome.ZERO_PAGE])
    items = int(np.count_nonzero(outcome > Outcome.UNKNOWN)) - by_then(times.freed_in)
    before = prediction.counters["ksm_zero_pages"]
    if rules.counts_zero_pages:
        zero_pages = before + replaced - int(np.count_nonzero(outcome == Outcome.ZERO_PAGE))
    else:
        zero_pages = np.zeros_like(replaced)

    number = np.arange(1, scans + 1)
    in_step = np.array(
        [processes_all(n, smart_scan=rules.smart_scan) for n in number.tolist()], np.bool_
    )
    found = [_reading(solved, n) for n in number.tolist()]
    unshared = np.where(in_step & (number > 1), len(alone_in_tree(solved, fate)), 0)
    unshared[number == MERGING] += len(times.left_behind)
    unshared += np.array([reading.unshared for reading in found], np.int64)
    processed = np.where(in_step, items[1:], merged[:-1])
    processed += np.array([reading.processed for reading in found], np.int64)
    chains, dups = _chains(case, fate, times.nodes_in, most, scans)
    copies_made, copies_freed = copies(solved)
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


def alone_in_tree(solved: Solved, fate: Fate) -> Ints:
    """i64, the rows whose item is in the unstable tree after each scan that processes it.

    Without those that the simulation tells of.
    """
    alone: Mask = fate.outcome == Outcome.UNSHARED
    if solved.ordered is not None:
        simulated = solved.ordered.simulation.outcome == Outcome.UNSHARED
        alone[solved.ordered.rows[simulated]] = False
    return np.flatnonzero(alone)


def _when(times: Times) -> tuple[Scans, ...]:
    return times.settled_in, times.freed_in, times.nodes_in, times.gone_in, times.split_in


def _tally(when: npt.NDArray[np.uint16] | Ints, size: int) -> Ints:
    counts = np.zeros(size, np.int64)
    for piece in pieces(len(when)):
        counts += np.bincount(when[piece], minlength=size)
    return counts


def _reading(solved: Solved, scan: int) -> Reading:
    return solved.ordered.simulation.readings.after(scan) if solved.ordered else Reading()


def copies(solved: Solved) -> tuple[Ints, Ints]:
    """The scans in which break_cow() made copies, and in which such copies became free again."""
    made = np.full(len(solved.closed.copied), MERGING, dtype=np.int64)
    if solved.ordered is None:
        return made, made[:0]
    simulation = solved.ordered.simulation
    return np.append(made, simulation.copies_made_in), simulation.copies_freed_in


def _chains(case: Case, fate: Fate, nodes_in: Scans, most: int, scans: int) -> tuple[Ints, Ints]:
    """Chains and their dups after each scan, see ``stable_nodes`` in ``accounting.py``.

    The second node of a content makes a chain of the first.
    """
    when = np.full(len(fate.node), _NONE, dtype=np.uint16)
    when[fate.node] = nodes_in
    when[live_node_frames(case.snapshot)] = 0
    frame = np.flatnonzero(when != _NONE)
    content = case.contents.of_frame[frame]
    frame, content = frame[content >= 0], content[content >= 0]
    chained = np.bincount(content)[content] > 1
    frame, content = frame[chained], content[chained]
    order = np.lexsort((when[frame], content))
    frame, content = frame[order], content[order]
    starts = np.flatnonzero(np.append(True, content[1:] != content[:-1])[: len(content)])
    joined = when[frame].astype(np.int64)
    chained_in = joined[starts + 1]
    joined[starts] = chained_in
    chains, dups = (np.cumsum(_tally(t, most + 1))[1 : scans + 1] for t in (chained_in, joined))
    return chains, dups

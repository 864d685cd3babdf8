"""Within a full scan: after how many of its pages which frame becomes free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from estimator.arrays import Empty, Ints, Mask, Numbers, count_where, made, pieces, rows_where
from estimator.ksm.case import Case
from estimator.ksm.fate import Fate
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.readings import processes_all
from estimator.ksm.scans import Scans, Times, copies, splits, vanishing_rows
from estimator.ksm.timing import Timing


@dataclass(frozen=True)
class Course:
    """How frames become free within the full scans, by the numbers of these.

    ``after_pages``: per scan in which some do, sorted: the pages of it that ksmd has visited when
    each of them is free. Not known is when in a scan break_cow() takes frames (``taken``, how
    many), and when others become free (``unplaced``): its copies, and contents that are simulated.
    """

    after_pages: dict[int, Numbers]
    taken: dict[int, int]
    unplaced: dict[int, int]

    def freed(self, scan: int, visited_pages: int) -> tuple[int, int]:
        """The least and the most frames that ``scan`` has freed after so many pages of it."""
        found = self.after_pages.get(scan)
        free = 0 if found is None else int(np.searchsorted(found, visited_pages, side="right"))
        return free - self.taken.get(scan, 0), free + self.unplaced.get(scan, 0)

    def pages_until(self, scan: int, frames: int) -> int | None:
        """After how many pages of ``scan`` it has freed so many ``frames`` for certain.

        None where that is known of its end only.
        """
        found, wanted = self.after_pages.get(scan), frames + self.taken.get(scan, 0)
        if found is None or not 0 < wanted <= len(found):
            return None
        return int(found[wanted - 1])


def course_of(
    case: Case, timing: Timing, fate: Fate, prediction: Prediction, times: Times
) -> Course:
    """The course of what ``times`` says by full scans.

    The first two items of a new stable node join it when the second one is visited; others at
    their own visit. A frame is free with its last mapping.
    """
    empty = prediction.empty
    in_order, split_in_order = _in_order(case, timing, empty)
    split_row = np.append(splits(case, timing)[1], 0)
    freed, frame = prediction.freed, case.frame_of_row
    gone = rows_where(len(freed.gone), lambda piece: freed.gone[piece], empty)
    placed, at_row = empty(len(gone), np.bool_), empty(len(gone), np.int32)
    place = empty(len(freed.gone), np.int32)
    place[:] = -1
    for piece in pieces(len(gone)):
        here = gone[piece]
        folio = np.where(fate.vanished[here], freed.folio[here], -1)
        split = folio >= 0
        placed[piece] = np.where(split, ~split_in_order[folio], ~in_order[here])
        at_row[piece] = np.where(split, split_row[folio], 0)
        place[here[~split]] = np.flatnonzero(~split) + piece.start
    unmapped = np.flatnonzero((times.split_in > 0) & (freed.unmapped > 0))
    number = freed.unmapped[unmapped]
    after_pages: dict[int, Numbers] = {}
    taken, unplaced = (Counter(numbers.tolist()) for numbers in copies(timing))
    for scan in _numbers_in(times.gone_in, times.split_in[unmapped]):
        for moving, moved in _moves(fate, times, scan, empty):
            where = place[frame[moving]]
            where, moved = where[where >= 0], moved[where >= 0]
            last = times.gone_in[where] == scan  # no mapping of it comes later
            np.maximum.at(at_row, where[last], moved[last])
        split_now = times.split_in[unmapped] == scan
        known = split_now & ~split_in_order[unmapped]
        if processes_all(scan, smart_scan=case.rules.smart_scan):
            at = np.repeat(split_row[unmapped[known]], number[known])
            now = made(len(gone), np.bool_, _equal(times.gone_in, scan, placed), empty)
            after_pages[scan] = _visited_by(fate, times, scan, at_row, now, at, empty)
        free = count_where(len(gone), _equal(times.gone_in, scan)) + int(number[split_now].sum())
        unplaced[scan] += free - len(after_pages.get(scan, ()))
    return Course(after_pages, dict(taken), dict(unplaced))


def _equal(scans: Scans, scan: int, among: Mask | None = None) -> Callable[[slice], Mask]:
    """Which of ``scans`` are ``scan``, of a piece of them."""

    def of(piece: slice) -> Mask:
        equal: Mask = scans[piece] == scan
        return equal if among is None else equal & among[piece]

    return of


def _numbers_in(*scans: Scans) -> list[int]:
    """The numbers of scans that are in any of the arrays, ascending."""
    found: set[int] = set()
    for each in scans:
        for piece in pieces(len(each)):
            found.update(np.flatnonzero(np.bincount(each[piece])).tolist())
    return sorted(found)


def _moves(fate: Fate, times: Times, scan: int, empty: Empty) -> Iterator[tuple[Ints, Ints]]:
    """The rows that settle in ``scan``, and those at which they do, piece by piece."""
    for piece in pieces(len(times.settled_in)):
        rows = np.flatnonzero(times.settled_in[piece] == scan) + piece.start
        yield rows, rows
    first, second = first_items(fate, times, scan, empty)
    for piece in pieces(len(first)):
        new = np.flatnonzero(first[piece] >= 0)
        yield first[piece][new].astype(np.int64), second[piece][new].astype(np.int64)


def _visited_by(
    fate: Fate, times: Times, scan: int, at_row: Numbers, now: Mask, at: Ints, empty: Empty
) -> Numbers:
    """How many pages ``scan`` has visited by each row of ``at_row[now]`` and ``at``, sorted."""
    so_far = visited_by(visited_in(fate, times, scan, empty), empty)
    found = empty(int(np.count_nonzero(now)) + len(at), np.int32)
    filled = 0
    for piece in pieces(len(now)):
        here = so_far[at_row[piece][now[piece]]]
        found[filled : filled + len(here)] = here
        filled += len(here)
    found[filled:] = so_far[at]
    found.sort()
    return found


def _in_order(case: Case, timing: Timing, empty: Empty) -> tuple[Mask, Mask]:
    """Bool per frame, and per large folio (the last one for none): a simulation decides of them."""
    frames = empty(len(case.facts.items), np.bool_)
    frames[:] = False
    folios = np.zeros(int(case.facts.folio.max(initial=-1)) + 2, dtype=np.bool_)
    if timing.ordered is not None:
        frames[case.frame_of_row[timing.ordered.rows]] = True
        folios[list(timing.ordered.simulation.splits)] = True
    return frames, folios


def first_items(
    fate: Fate, times: Times, scan: int, empty: Empty, among: Mask | None = None
) -> tuple[Numbers, Numbers]:
    """Per frame, where it is the page of a stable node that is new in ``scan``, else -1 (i32).

    The row of the first item of it that settles in the scan, and when that one moves: at the row of
    the second one. ``among``: bool per row, of these items.
    """
    first, second = (empty(len(fate.node), np.int32) for _ in range(2))
    first[:], second[:] = -1, -1
    new = empty(len(fate.node), np.bool_)
    new[:] = False
    new[fate.node] = times.nodes_in == scan
    for piece in pieces(len(times.settled_in)):
        node = fate.stable_frame[piece]
        settling = (times.settled_in[piece] == scan) & (node >= 0)
        here = np.flatnonzero(settling if among is None else settling & among[piece])
        here = here[new[node[here]]]
        node, row = node[here], (here + piece.start).astype(np.int32)
        fresh = first[node] < 0
        first[node[fresh][::-1]] = row[fresh][::-1]
        later = (row != first[node]) & (second[node] < 0)
        second[node[later][::-1]] = row[later][::-1]
    for piece in pieces(len(first)):
        np.copyto(second[piece], first[piece], where=second[piece] < 0)
    return first, second


def visited_in(fate: Fate, times: Times, scan: int, empty: Empty) -> Mask:
    """Bool per row: ksmd visits its page in ``scan``, one of those that process all items."""
    outcome = fate.outcome
    visited = made(len(outcome), np.bool_, lambda piece: outcome[piece] > Outcome.UNKNOWN, empty)
    vanished = vanishing_rows(fate, empty)
    for piece in pieces(len(vanished)):
        visited[vanished[piece][times.freed_in[piece] <= scan]] = False
    return visited


def visited_by(visited: Mask, empty: Empty) -> Numbers:
    """i32 per row: how many pages are ``visited`` (bool per row) up to it and with it."""
    so_far, before = empty(len(visited), np.int32), 0
    for piece in pieces(len(visited)):
        so_far[piece] = np.cumsum(visited[piece]) + before
        before = int(so_far[piece.stop - 1])
    return so_far

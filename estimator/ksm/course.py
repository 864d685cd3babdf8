"""Within a full scan: after how many of its pages which frame becomes free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from estimator.arrays import Empty, Ints, Mask, Numbers, alike, count_where, made, move_up, pieces
from estimator.ksm.credits import Freed
from estimator.ksm.fate import Fate
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.readings import processes_all
from estimator.ksm.scans import Scans, Times, copies, vanishing_rows
from estimator.ksm.timing import Timing
from estimator.ranks import Ranks


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


def course_of(timing: Timing, fate: Fate, prediction: Prediction, times: Times) -> Course:
    """The course of what ``times`` says by full scans.

    The first two items of a new stable node join it when the second one is visited; others at
    their own visit. A frame is free with its last mapping.
    """
    empty = prediction.empty
    freed, frame = prediction.freed, prediction.freed.frame_of_row
    in_order, split_in_order = _in_order(timing, freed)
    split_row = np.append(times.split_row, 0)
    gone = Ranks.of(len(freed.gone), lambda piece: freed.gone[piece])
    placed, by_split, at_row = (
        empty(gone.total, dtype) for dtype in (np.bool_, np.bool_, np.int32)
    )
    end = 0
    for piece in pieces(len(freed.gone)):
        here = np.flatnonzero(freed.gone[piece]) + piece.start
        some = slice(end, end := end + len(here))
        folio = np.where(fate.vanished[here], freed.folio[here], -1)
        by_split[some] = split = folio >= 0
        placed[some] = np.where(split, ~split_in_order[folio], ~in_order[here])
        at_row[some] = np.where(split, split_row[folio], 0)
    unmapped = np.flatnonzero((times.split_in > 0) & (freed.unmapped > 0))
    number = freed.unmapped[unmapped]
    after_pages: dict[int, Numbers] = {}
    taken, unplaced = (Counter(numbers.tolist()) for numbers in copies(timing))
    for scan in _numbers_in(times.gone_in, times.split_in[unmapped]):
        for moving, moved in _moves(fate, times, scan, empty):
            there = np.flatnonzero(gone.holds(frame[moving]))
            where, moved = gone.before(frame[moving[there]]), moved[there]
            # no mapping of it comes later
            last = (times.gone_in[where] == scan) & ~by_split[where]
            np.maximum.at(at_row, where[last], moved[last])
        split_now = times.split_in[unmapped] == scan
        known = split_now & ~split_in_order[unmapped]
        if processes_all(scan, smart_scan=prediction.smart_scan):
            at = np.repeat(split_row[unmapped[known]], number[known])
            now = made(gone.total, np.bool_, _equal(times.gone_in, scan, placed), empty)
            after_pages[scan] = _visited_by(fate, times, scan, at_row, now, at, empty)
        free = count_where(gone.total, _equal(times.gone_in, scan)) + int(number[split_now].sum())
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
        yield first[piece].astype(np.int64), second[piece].astype(np.int64)


def _visited_by(
    fate: Fate, times: Times, scan: int, at_row: Numbers, now: Mask, at: Ints, empty: Empty
) -> Numbers:
    """How many pages ``scan`` has visited by each row of ``at_row[now]`` and ``at``, sorted."""
    so_far = visited_by(visited_in(fate, times, scan, empty))
    found = empty(int(np.count_nonzero(now)) + len(at), np.int32)
    filled = 0
    for piece in pieces(len(now)):
        here = so_far(at_row[piece][now[piece]])
        found[filled : filled + len(here)] = here
        filled += len(here)
    found[filled:] = so_far(at)
    found.sort()
    return found


def _in_order(timing: Timing, freed: Freed) -> tuple[Mask, Mask]:
    """Bool per frame, and per large folio (the last one for none): a simulation decides of them."""
    frames = np.zeros(len(freed.gone), np.bool_)
    folios = np.zeros(len(freed.split) + 1, dtype=np.bool_)
    if timing.ordered is not None:
        frames[freed.frame_of_row[timing.ordered.rows]] = True
        folios[list(timing.ordered.simulation.splits)] = True
    return alike(frames), folios


def first_items(
    fate: Fate, times: Times, scan: int, empty: Empty, among: Mask | None = None
) -> tuple[Numbers, Numbers]:
    """Of each stable node that is new in ``scan``, in the order of their frames (i32).

    The row of the first item of it that settles in the scan, and when that one moves: at the row of
    the second one. ``among``: bool per row, of these items; nodes without any are left out.
    """
    new = _new_nodes(fate, times, scan)
    first, second = (empty(new.total, np.int32) for _ in range(2))
    first[:], second[:] = -1, -1
    for piece in pieces(len(times.settled_in)):
        node = fate.stable_frame[piece]
        settling = (times.settled_in[piece] == scan) & (node >= 0)
        here = np.flatnonzero(settling if among is None else settling & among[piece])
        here = here[new.holds(node[here])]
        place, row = new.before(node[here]), (here + piece.start).astype(np.int32)
        fresh = first[place] < 0
        first[place[fresh][::-1]] = row[fresh][::-1]
        later = (row != first[place]) & (second[place] < 0)
        second[place[later][::-1]] = row[later][::-1]
    for piece in pieces(len(first)):
        np.copyto(second[piece], first[piece], where=second[piece] < 0)
    found = made(len(first), np.bool_, lambda piece: first[piece] >= 0, empty)
    return move_up(first, found), move_up(second, found)


def _new_nodes(fate: Fate, times: Times, scan: int) -> Ranks:
    """The frames of the stable nodes that are new in ``scan``."""
    end = 0

    def of(piece: slice) -> Mask:
        nonlocal end
        new = fate.node[piece].copy()
        begin, end = end, end + int(np.count_nonzero(new))
        new[new] = times.nodes_in[begin:end] == scan
        return new

    return Ranks.of(len(fate.node), of)


def visited_in(fate: Fate, times: Times, scan: int, empty: Empty) -> Mask:
    """Bool per row: ksmd visits its page in ``scan``, one of those that process all items."""
    outcome = fate.outcome
    visited = made(len(outcome), np.bool_, lambda piece: outcome[piece] > Outcome.UNKNOWN, empty)
    vanished = vanishing_rows(fate, empty)
    for piece in pieces(len(vanished)):
        visited[vanished[piece][times.freed_in[piece] <= scan]] = False
    return visited


def visited_by(visited: Mask) -> Callable[[Ints | Numbers], Ints]:
    """How many pages are ``visited`` (bool per row) up to each of some rows and with it."""
    ranks = Ranks.of(len(visited), lambda piece: visited[piece])
    return lambda rows: ranks.before(rows + 1)

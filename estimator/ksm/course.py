"""Within a full scan: after how many of its pages which frame becomes free."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from estimator.arrays import Ints, Mask
from estimator.ksm.case import Case
from estimator.ksm.fate import Fate, Solved
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.readings import processes_all
from estimator.ksm.scans import Times, copies, splits, vanishes


@dataclass(frozen=True)
class Course:
    """How frames become free within the full scans, by the numbers of these.

    ``after_pages``: per scan in which some do, sorted: the pages of it that ksmd has visited when
    each of them is free. Not known is when in a scan break_cow() takes frames (``taken``, how
    many), and when others become free (``unplaced``): its copies, and contents that are simulated.
    """

    after_pages: dict[int, Ints]
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
    case: Case, solved: Solved, fate: Fate, prediction: Prediction, times: Times
) -> Course:
    """The course of what ``times`` says by full scans.

    The first two items of a new stable node join it when the second one is visited; others at
    their own visit. A frame is free with its last mapping.
    """
    in_order, split_in_order = _in_order(case, solved)
    _, split_row = splits(case, solved)
    gone = np.flatnonzero(prediction.freed.gone)
    folio = np.where(fate.vanished[gone], case.facts.folio[gone], -1)
    split = folio >= 0
    placed = np.where(split, ~split_in_order[folio], ~in_order[gone])
    at_row = np.where(split, np.append(split_row, 0)[folio], 0)
    place = np.full(len(case.facts.items), -1, dtype=np.int64)
    place[gone[~split]] = np.flatnonzero(~split)
    pieces = np.flatnonzero((times.split_in > 0) & (prediction.freed.unmapped > 0))
    number = prediction.freed.unmapped[pieces]
    after_pages: dict[int, Ints] = {}
    taken, unplaced = (Counter(numbers.tolist()) for numbers in copies(solved))
    for scan in np.unique(np.concatenate([times.gone_in, times.split_in[pieces]])).tolist():
        rows = np.flatnonzero(times.settled_in == scan)
        for moving, moved in ((rows, rows), first_items(fate, times, rows, scan)):
            where = place[case.frame_of_row[moving]]
            last = np.append(times.gone_in, 0)[where] == scan  # no mapping of it comes later
            where, moved = where[last], moved[last]
            at_row[where] = np.maximum(at_row[where], moved)  # of equal places the last one counts
        now, split_now = times.gone_in == scan, times.split_in[pieces] == scan
        known = split_now & ~split_in_order[pieces]
        exact = processes_all(scan, smart_scan=case.rules.smart_scan)
        if exact:
            at = [at_row[now & placed], np.repeat(split_row[pieces[known]], number[known])]
            so_far = np.cumsum(visited_in(fate, times, scan), dtype=np.int64)
            after_pages[scan] = np.sort(so_far[np.concatenate(at)])
        freed = int(np.count_nonzero(now)) + int(number[split_now].sum())
        unplaced[scan] += freed - len(after_pages.get(scan, ()))
    return Course(after_pages, dict(taken), dict(unplaced))


def _in_order(case: Case, solved: Solved) -> tuple[Mask, Mask]:
    """Bool per frame, and per large folio (the last one for none): a simulation decides of them."""
    frames = np.zeros(len(case.facts.items), dtype=np.bool_)
    folios = np.zeros(int(case.facts.folio.max(initial=-1)) + 2, dtype=np.bool_)
    if solved.ordered is not None:
        frames[case.frame_of_row[solved.ordered.rows]] = True
        folios[list(solved.ordered.simulation.splits)] = True
    return frames, folios


def first_items(fate: Fate, times: Times, rows: Ints, scan: int) -> tuple[Ints, Ints]:
    """Rows of the first items of the stable nodes that are new in ``scan``, and when they move.

    That is at the row of the second item, ascending, as are ``rows``: all that settle in the scan.
    """
    new = np.flatnonzero(fate.node)[times.nodes_in == scan]
    rows = rows[fate.stable_frame[rows] >= 0]
    node = fate.stable_frame[rows]
    first = np.full(len(fate.node), -1, dtype=np.int64)
    first[node[::-1]] = rows[::-1]
    second = first.copy()
    later = rows != first[node]
    second[node[later][::-1]] = rows[later][::-1]
    new = new[first[new] >= 0]
    new = new[np.argsort(second[new])]
    return first[new], second[new]


def visited_in(fate: Fate, times: Times, scan: int) -> Mask:
    """Bool per row: ksmd visits its page in ``scan``, one of those that process all items."""
    visited = fate.outcome > Outcome.UNKNOWN
    vanished = np.flatnonzero(vanishes(fate.outcome))
    visited[vanished[times.freed_in <= scan]] = False
    return visited

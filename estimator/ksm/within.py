"""The counters within a full scan, page by page.

An item that waits in the unstable tree is taken out at its next visit and put in again at the same
one (cmp_and_merge_page() in mm/ksm.c), or only taken out where smart_scan skips it
(should_skip_rmap_item()). So pages_unshared counts those of the scan before until the walk comes
by. An rmap_item is made at the first visit of its page, and freed when the walk has passed a page
that is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Mask, Numbers, made, pieces, rows_where
from estimator.ksm.accounting import general_profit_bytes
from estimator.ksm.course import first_items, visited_by, visited_in
from estimator.ksm.fate import Fate
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.readings import processes_all
from estimator.ksm.rules import Rules
from estimator.ksm.scans import MERGING, Times, alone_in_tree, vanishing_rows
from estimator.ksm.timing import Timing

Range = tuple[int, int]

COUNTERS = (
    *("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"),
    *("ksm_zero_pages", "ksm_rmap_items", "general_profit"),
)


@dataclass(frozen=True)
class Steps:
    """How one counter changes within one scan: pages visited when it gains and loses one, sorted.

    ``rest``: what it changes besides, it is not known when; ``spread``: so much more or less it
    may be in between.
    """

    gains: Numbers
    losses: Numbers
    rest: int
    spread: int

    def after(self, before: int, visited_pages: int) -> Range:
        """Its least and its most after so many pages; ``before``: when the scan began."""
        gained = int(np.searchsorted(self.gains, visited_pages, side="right"))
        lost = int(np.searchsorted(self.losses, visited_pages, side="right"))
        sure = before + gained - lost
        return sure + min(self.rest, 0) - self.spread, sure + max(self.rest, 0) + self.spread


class Within:
    """The counters within each scan of a forecast, for a KSM that starts from nothing.

    ``table``: see ``scan_table``. What a scan does page by page is worked out when asked for.
    """

    def __init__(
        self,
        rules: Rules,
        timing: Timing,
        fate: Fate,
        prediction: Prediction,
        times: Times,
        table: pd.DataFrame,
    ) -> None:
        self._rules = rules
        self._changes = cache(lambda: _Scans(rules, timing, fate, prediction, times))
        self._table = table.assign(merged=table["pages_shared"] + table["pages_sharing"])
        self._steps: dict[int, dict[str, Steps]] = {}

    def after(self, scan: int, visited_pages: int) -> dict[str, Range]:
        """Least and most of ``COUNTERS`` when ``scan`` has visited so many pages."""
        if scan not in self._steps:
            self._steps[scan] = self._steps_of(scan)
        found = {
            name: steps.after(self._before(name, scan), visited_pages)
            for name, steps in self._steps[scan].items()
        }
        merged, shared = found.pop("merged"), found["pages_shared"]
        items, unshared = found["ksm_rmap_items"], found["pages_unshared"]
        zero_pages = found["ksm_zero_pages"]
        found["pages_unshared"] = unshared = max(unshared[0], 0), unshared[1]
        sharing = max(merged[0] - shared[1], 0), merged[1] - shared[0]
        volatile = items[0] - merged[1] - unshared[1], items[1] - merged[0] - unshared[0]
        profit = (
            general_profit_bytes(self._rules, sharing[0], zero_pages[0], items[1]),
            general_profit_bytes(self._rules, sharing[1], zero_pages[1], items[0]),
        )
        return found | {
            "pages_sharing": sharing,
            "pages_volatile": (max(volatile[0], 0), volatile[1]),
            "general_profit": profit,
        }

    def _before(self, name: str, scan: int) -> int:
        return int(self._table[name].iloc[scan - 2]) if scan > 1 else 0

    def _steps_of(self, scan: int) -> dict[str, Steps]:
        found = {}
        for name, (gains, losses, spread) in self._changes().changes(scan).items():
            change = int(self._table[name].iloc[scan - 1]) - self._before(name, scan)
            rest = change - len(gains) + len(losses)
            found[name] = Steps(gains, losses, rest, spread)
        return found


class _Scans:
    """What changes when, but for the items that are simulated."""

    def __init__(
        self, rules: Rules, timing: Timing, fate: Fate, prediction: Prediction, times: Times
    ) -> None:
        empty, freed = prediction.empty, prediction.freed
        self._rules, self._fate, self._times, self._empty = rules, fate, times, empty
        placed = empty(len(fate.outcome), np.bool_)
        placed[:] = True
        self._trees = 0
        if timing.ordered is not None:
            rows = timing.ordered.rows
            placed[rows] = False
            self._trees = len(np.unique(freed.content[freed.frame_of_row[rows]]))
        self._placed = placed
        alone = alone_in_tree(timing, fate, empty)
        self._alone = self._rows(lambda piece: alone[piece])
        self._gone = vanishing_rows(fate, empty)

    def _rows(self, of: Callable[[slice], Mask]) -> Ints:
        """Those that are not simulated."""
        placed = self._placed
        return rows_where(len(placed), lambda piece: of(piece) & placed[piece], self._empty)

    def changes(self, scan: int) -> dict[str, tuple[Numbers, Numbers, int]]:
        """Gains, losses and spread of each counter, see ``Steps``."""
        outcome, times, none = self._fate.outcome, self._times, np.zeros(0, np.int64)
        in_step = self._in_step(scan)
        so_far = visited_by(self._processed(scan, in_step=in_step))
        first, second, is_first = self._first_items(scan)

        def settled(piece: slice) -> Mask:
            now: Mask = times.settled_in[piece] == scan
            return now

        joining = self._rows(
            lambda piece: settled(piece) & (outcome[piece] == Outcome.MERGED) & ~is_first[piece]
        )
        zeroed = self._rows(lambda piece: settled(piece) & (outcome[piece] == Outcome.ZERO_PAGE))
        away = self._rows(lambda piece: settled(piece) & (outcome[piece] == Outcome.SPLIT_AWAY))
        items = self._all_items() if scan == 1 else none
        gone, placed = self._gone, self._placed
        freed = self._chosen(
            gone, lambda piece: placed[gone[piece]] & (times.freed_in[piece] == scan)
        )
        waited, joined = (
            self._chosen(ends, lambda piece: first[piece] != second[piece]) if scan > 1 else none
            for ends in (first, second)
        )
        left = times.left_behind if scan == MERGING else none
        back = times.left_behind if scan == MERGING + 1 else none
        enter, leave = self._of_tree(scan, in_step=in_step)
        counts_zeroes = self._rules.counts_zero_pages

        def at(*rows: Ints | Numbers, after: tuple[Ints, ...] = ()) -> Numbers:
            return self._visited(so_far, rows, after)

        return {
            "merged": (at(joining, second), at(), 0),
            "pages_shared": (at(second), at(), 0),
            "ksm_zero_pages": (at(zeroed) if counts_zeroes else at(), at(), 0),
            "ksm_rmap_items": (at(items), at(after=(freed,)), 0),
            "pages_unshared": (
                at(enter, waited, left),
                at(joined, after=(leave, back)),
                self._trees + len(away) + self._vanished_before(scan),
            ),
        }

    def _all_items(self) -> Ints:
        outcome = self._fate.outcome
        return rows_where(len(outcome), lambda piece: outcome[piece] > Outcome.UNKNOWN, self._empty)

    def _first_items(self, scan: int) -> tuple[Numbers, Numbers, Mask]:
        """See ``first_items``: of all new nodes; and bool per row, whether it is one of the first.

        The rows are i32.
        """
        first, second = first_items(self._fate, self._times, scan, self._empty, self._placed)
        is_first = self._empty(len(self._placed), np.bool_)
        is_first[:] = False
        for piece in pieces(len(first)):
            is_first[first[piece]] = True
        return first, second, is_first

    def _chosen(self, values: npt.NDArray[Any], of: Callable[[slice], Mask]) -> npt.NDArray[Any]:
        """Those of ``values`` that ``of`` says of a piece of them."""
        places = rows_where(len(values), of, self._empty)
        return made(len(places), values.dtype, lambda piece: values[places[piece]], self._empty)

    def _visited(
        self,
        so_far: Callable[[Ints | Numbers], Ints],
        rows: tuple[Ints | Numbers, ...],
        after: tuple[Ints, ...],
    ) -> Numbers:
        """How many pages are visited at ``rows`` and right ``after`` rows, i32, sorted."""
        found, filled = self._empty(sum(map(len, (*rows, *after))), np.int32), 0
        for some, more in (*((each, 0) for each in rows), *((each, 1) for each in after)):
            for piece in pieces(len(some)):
                here = so_far(some[piece]) + np.int32(more)
                found[filled : filled + len(here)] = here
                filled += len(here)
        found.sort()
        return found

    def _of_tree(self, scan: int, *, in_step: bool) -> tuple[Ints, Ints]:
        """Rows that come to wait in the tree in this scan, and those that leave it."""
        there_before = scan > MERGING and self._in_step(scan - 1)
        none = self._alone[:0]
        if scan == 1 or in_step == there_before:
            return none, none
        return (self._alone, none) if in_step else (none, self._alone)

    def _vanished_before(self, scan: int) -> int:
        """Pages that were gone in the scan before; some may have waited in the tree."""
        outcome, settled_in = self._fate.outcome, self._times.settled_in
        away = self._rows(
            lambda piece: (outcome[piece] == Outcome.SPLIT_AWAY) & (settled_in[piece] == scan - 1)
        )
        return len(away)

    def _in_step(self, scan: int) -> bool:
        return processes_all(scan, smart_scan=self._rules.smart_scan)

    def _processed(self, scan: int, *, in_step: bool) -> Mask:
        """Bool per row: ksmd visits its page in this scan."""
        if in_step:
            return visited_in(self._fate, self._times, scan, self._empty)
        outcome, settled_in = self._fate.outcome, self._times.settled_in

        def on_node(piece: slice) -> Mask:
            there: Mask = (outcome[piece] == Outcome.MERGED) & (settled_in[piece] < scan)
            return there

        return made(len(outcome), np.bool_, on_node, self._empty)

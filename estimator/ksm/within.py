"""The counters within a full scan, page by page.

An item that waits in the unstable tree is taken out at its next visit and put in again at the same
one (cmp_and_merge_page() in mm/ksm.c), or only taken out where smart_scan skips it
(should_skip_rmap_item()). So pages_unshared counts those of the scan before until the walk comes
by. An rmap_item is made at the first visit of its page, and freed when the walk has passed a page
that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from estimator.arrays import Ints, Mask
from estimator.ksm.accounting import general_profit_bytes
from estimator.ksm.case import Case
from estimator.ksm.course import first_items, visited_in
from estimator.ksm.fate import Fate, Solved
from estimator.ksm.prediction import Outcome
from estimator.ksm.readings import processes_all
from estimator.ksm.scans import MERGING, Times, alone_in_tree, vanishes

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

    gains: Ints
    losses: Ints
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
        self, case: Case, solved: Solved, fate: Fate, times: Times, table: pd.DataFrame
    ) -> None:
        self._rules = case.rules
        self._scans = _Scans(case, solved, fate, times)
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
        for name, (gains, losses, spread) in self._scans.changes(scan).items():
            change = int(self._table[name].iloc[scan - 1]) - self._before(name, scan)
            rest = change - len(gains) + len(losses)
            found[name] = Steps(np.sort(gains), np.sort(losses), rest, spread)
        return found


class _Scans:
    """What changes when, but for the items that are simulated."""

    def __init__(self, case: Case, solved: Solved, fate: Fate, times: Times) -> None:
        self._case, self._fate, self._times = case, fate, times
        simulated = np.zeros(len(fate.outcome), np.bool_)
        self._trees = 0
        if solved.ordered is not None:
            rows = solved.ordered.rows
            simulated[rows] = True
            self._trees = len(np.unique(case.contents.of_frame[case.frame_of_row[rows]]))
        self._placed = ~simulated
        alone = alone_in_tree(solved, fate)
        self._alone = alone[self._placed[alone]]
        gone = np.flatnonzero(vanishes(fate.outcome))
        self._gone, self._gone_placed = gone, self._placed[gone]

    def changes(self, scan: int) -> dict[str, tuple[Ints, Ints, int]]:
        """Gains, losses and spread of each counter, see ``Steps``."""
        fate, times, none = self._fate, self._times, np.zeros(0, np.int64)
        in_step = self._in_step(scan)
        so_far = np.cumsum(self._processed(scan, in_step=in_step))
        settled = np.flatnonzero((times.settled_in == scan) & self._placed)
        merged = settled[fate.outcome[settled] == Outcome.MERGED]
        first, second = first_items(fate, times, merged, scan)
        moved = np.concatenate([np.setdiff1d(merged, first, assume_unique=True), second])
        zeroed = settled[fate.outcome[settled] == Outcome.ZERO_PAGE]
        away = len(settled) - len(merged) - len(zeroed)
        made = np.flatnonzero(fate.outcome > Outcome.UNKNOWN) if scan == 1 else none
        freed = self._gone[self._gone_placed & (times.freed_in == scan)]
        waited, joined = (ends[first != second] if scan > 1 else none for ends in (first, second))
        left = times.left_behind if scan == MERGING else none
        back = times.left_behind if scan == MERGING + 1 else none
        enter, leave = self._of_tree(scan, in_step=in_step)
        counts_zeroes = self._case.rules.counts_zero_pages
        return {
            "merged": (so_far[moved], none, 0),
            "pages_shared": (so_far[second], none, 0),
            "ksm_zero_pages": (so_far[zeroed] if counts_zeroes else none, none, 0),
            "ksm_rmap_items": (so_far[made], so_far[freed] + 1, 0),
            "pages_unshared": (
                np.concatenate([so_far[enter], so_far[waited], so_far[left]]),
                np.concatenate([so_far[leave] + 1, so_far[joined], so_far[back] + 1]),
                self._trees + away + self._vanished_before(scan),
            ),
        }

    def _of_tree(self, scan: int, *, in_step: bool) -> tuple[Ints, Ints]:
        """Rows that come to wait in the tree in this scan, and those that leave it."""
        there_before = scan > MERGING and self._in_step(scan - 1)
        none = self._alone[:0]
        if scan == 1 or in_step == there_before:
            return none, none
        return (self._alone, none) if in_step else (none, self._alone)

    def _vanished_before(self, scan: int) -> int:
        """Pages that were gone in the scan before; some may have waited in the tree."""
        away = self._fate.outcome == Outcome.SPLIT_AWAY
        return int(np.count_nonzero(away & self._placed & (self._times.settled_in == scan - 1)))

    def _in_step(self, scan: int) -> bool:
        return processes_all(scan, smart_scan=self._case.rules.smart_scan)

    def _processed(self, scan: int, *, in_step: bool) -> Mask:
        """Bool per row: ksmd visits its page in this scan."""
        if in_step:
            return visited_in(self._fate, self._times, scan)
        on_node: Mask = (self._fate.outcome == Outcome.MERGED) & (self._times.settled_in < scan)
        return on_node

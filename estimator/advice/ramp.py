"""Services that start while ksmd runs: when each full scan ends, and what it brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.cost_terms import coming_work, mapped_one_by_one
from estimator.advice.moment import Foretell
from estimator.advice.pace import Pacing, Timed, in_time, one_after_the_other
from estimator.advice.page_cost import CostRange, PageCost
from estimator.advice.scan_time import ScanTime
from estimator.arrays import Ints
from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm.arrivals import Arriving, Patterns, patterns_of, table_of
from estimator.ksm.fate import settle
from estimator.ksm.forecast import MOST_SCANS, with_smart_scan
from estimator.ksm.predict import ask
from estimator.ksm.prediction import Prediction
from estimator.ksm.scans import LATEST
from estimator.ksm.unmerge import unmerged
from estimator.snapshot.changes import with_changes
from estimator.snapshot.snapshot import Snapshot

_CHANGING = ("pages_shared", "pages_sharing", "ksm_zero_pages", "ksm_rmap_items")
Times = npt.NDArray[np.float64]
Arrivals = Callable[[Snapshot, Ints], Times]
"""Given a snapshot and mm_ids, i64 (n,): seconds at which each process comes, f64 (n,)."""


@dataclass(frozen=True)
class Ramp(Timed):
    """ksmd while processes come, from the first arrival on.

    ``scans`` has ``processes`` too: those that were there when it began. ``arrivals``: seconds at
    which processes come, ascending, one entry per process. ``at_rest``: the prediction if all had
    been there from the start. ``ended``: nothing changes any more. ``at_once_bytes``: saved in the
    end if all come at once; None where not ``ended``. ``large_pages``: in huge pages, which are
    taken as split. ``starts_over``: KSM has merged, and is taken to start from nothing.
    """

    arrivals: Times
    at_rest: Prediction
    ended: bool
    at_once_bytes: int | None
    large_pages: int
    starts_over: bool
    page_bytes: int


def one_by_one(number: int, every_seconds: float) -> Arrivals:
    """So many processes at a time, in the order in which they were started."""

    def when(snapshot: Snapshot, mms: Ints) -> Times:
        started = snapshot.processes.iloc[mms]
        order = np.lexsort((started["pid"], started["start_time_ns"]))
        times = np.zeros(len(mms))
        times[order] = np.arange(len(mms)) // number * every_seconds
        return times

    return when


def as_started(snapshot: Snapshot, mms: Ints) -> Times:
    """Each at the time after the first at which it was started in fact."""
    started = snapshot.processes["start_time_ns"].to_numpy()[mms].astype(np.float64)
    times: Times = (started - started.min(initial=np.inf)) / 1e9 if len(mms) else started
    return times


def ramp(
    foretell: Foretell,
    when: Arrivals,
    pacing: Pacing,
    cost: CostRange,
    *,
    scans: int | None = None,
    seconds: float | None = None,
) -> Ramp:
    """Follow ksmd from nothing while the processes that take part come; ``when`` says at what time.

    ``scans``, ``seconds``: where it ends; None: where nothing changes any more, or after
    ``MOST_SCANS`` full scans with all of them there. Errors as for ``forecast``; CannotAnswerError
    too where nobody takes part.
    """
    policy, later = foretell.policy, foretell.later
    snapshot = with_smart_scan(foretell.snapshot, foretell.smart_scan)
    at_rest = ask(snapshot, policy, later=later, as_new=True)
    starts_over = bool(at_rest.case.facts.ksm.any())
    question = ask(unmerged(with_changes(snapshot, later)), policy) if starts_over else at_rest
    case = question.case
    vma = case.snapshot.mappings["vma_id"].to_numpy()[case.candidates.row_numbers()]
    mms = np.unique(case.snapshot.vmas["mm_id"].to_numpy()[vma]).astype(np.int64)
    if not len(mms):
        raise CannotAnswerError("no process takes part: nobody arrives")
    times = when(case.snapshot, mms)
    moments, group = np.unique(times - times.min(), return_inverse=True)
    group_of_mm = np.zeros(len(case.snapshot.processes), np.int64)
    group_of_mm[mms] = group
    patterns = patterns_of(case, group_of_mm)
    whole = at_rest.answer(settle(at_rest.case))
    costs = _CostOfScan(whole, cost.most)

    def follow(
        patterns: Patterns, moments: Times, scans: int | None, seconds: float | None
    ) -> tuple[list[dict[str, int]], bool]:
        scan_of = one_after_the_other(snapshot, pacing)
        return _follow(Arriving(case, patterns), moments, scan_of, costs, (scans, seconds))

    rows, ended = follow(patterns, moments, scans, seconds)
    table = table_of(rows)
    coming = [int(np.count_nonzero(group < there)) for there in table.pop("groups")]
    pages = [row["pages_scanned"] for row in rows]
    most, least = (
        in_time(snapshot, pages, pacing, _in_scans(whole, rows, end))
        for end in (cost.most, cost.least)
    )
    at_once_bytes = None
    if ended:
        together = patterns_of(case, np.zeros_like(group_of_mm))
        at_once_bytes = follow(together, moments[:1], None, None)[0][-1]["bytes_saved"]
    return Ramp(
        pacing=pacing,
        cost=cost,
        scans=pd.concat([table.assign(processes=coming), most], axis=1),
        cheap=least,
        arrivals=np.sort(moments[group]),
        at_rest=whole,
        ended=ended,
        at_once_bytes=at_once_bytes,
        large_pages=patterns.large_pages,
        starts_over=starts_over,
        page_bytes=case.rules.page_bytes,
    )


class _CostOfScan:
    """What a page costs in a scan between two rows of counters."""

    def __init__(self, whole: Prediction, cost: PageCost) -> None:
        self._whole, self._cost = whole, cost
        self._one_by_one = mapped_one_by_one(whole) if cost.terms else 1.0

    def __call__(self, before: dict[str, int] | None, after: dict[str, int]) -> PageCost:
        if self._cost.terms is None:
            return self._cost
        return self._cost.in_scan(coming_work(self._whole, before, after, self._one_by_one))


def _in_scans(whole: Prediction, rows: list[dict[str, int]], cost: PageCost) -> list[PageCost]:
    of_scan = _CostOfScan(whole, cost)
    return [of_scan(before, row) for before, row in zip([None, *rows], rows, strict=False)]


def _follow(
    ksmd: Arriving,
    moments: Times,
    scan_of: Callable[[int, PageCost], ScanTime],
    cost: _CostOfScan,
    end: tuple[int | None, float | None],
) -> tuple[list[dict[str, int]], bool]:
    """Full scans up to ``end`` (scans, seconds), and whether nothing changes any more.

    If neither is given, up to the last one that changes something.
    """
    scans, until_seconds = end
    rows: list[dict[str, int]] = []
    clock, quiet, with_all = 0.0, 0, 0
    while len(rows) < (scans or LATEST) and (until_seconds is None or clock < until_seconds):
        there = int(np.searchsorted(moments, clock, side="right"))
        row = ksmd.scan(there) | {"groups": there}
        changed = not rows or any(row[name] != rows[-1][name] for name in _CHANGING)
        quiet = 0 if changed else quiet + 1
        rows.append(row)
        before = rows[-2] if len(rows) > 1 else None
        clock += scan_of(row["pages_scanned"], cost(before, row)).seconds
        with_all += there == len(moments)
        if scans is None and until_seconds is None:
            if with_all and quiet >= ksmd.turns:
                return rows[:-quiet], True
            if with_all == MOST_SCANS:
                return rows, False
    if len(rows) == LATEST and scans is None:
        raise UsageError(
            f"more than {LATEST:,} full scans pass until all processes have come",
            hint="give fewer --pages-to-scan, or an end: --for or --scans",
        )
    return rows, bool(with_all) and quiet >= ksmd.turns

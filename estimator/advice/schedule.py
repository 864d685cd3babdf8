"""How long a scan takes, what ksmd costs, and the settings that reach a scan time.

ksmd works in batches: it visits ``pages_to_scan`` pages, then sleeps ``sleep_millisecs``. What a
page costs is a range (``page_cost``), so times and CPU are ranges too. What is proposed is a fixed
``pages_to_scan``, whatever the cost: the one that reaches the time asked for if a page costs the
most, or the one that takes ``advisor_max_cpu`` of a CPU then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from estimator.advice.advisor import AdvisorSettings, advisor_course, settings_of
from estimator.advice.attribution import scanned_pages
from estimator.advice.cost_terms import ScanWork, merging_work, resting_work
from estimator.advice.pace import Pace, Pacing, pace, pacing_of
from estimator.advice.page_cost import CostRange, PageCost, page_cost
from estimator.advice.scan_time import ScanTime, pause_seconds, scan_time
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import Forecast, forecast
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import SKIPPING_SCANS
from estimator.snapshot.snapshot import Snapshot

TARGET_SCAN_SECONDS = 150.0
SLEEP_MILLISECS = 20
"""The kernel's default of sleep_millisecs."""


@dataclass(frozen=True)
class ScanRange:
    """One full scan, if a page costs the least and if it costs the most."""

    least: ScanTime
    most: ScanTime


def scan_time_now(snapshot: Snapshot, pages: int) -> ScanTime | None:
    """One full scan of ``pages`` pages as ksmd is set in ``snapshot``; None if that is not known.

    What a page costs is not known: ``seconds`` is the time asleep.
    """
    ksm = snapshot.info["ksm"]
    pages_to_scan, sleep = ksm.get("pages_to_scan"), ksm.get("sleep_millisecs")
    if not pages_to_scan or sleep is None:
        return None
    return scan_time(pages, int(pages_to_scan), int(sleep), None)


def pages_to_scan_for(
    pages: int, target_seconds: float, sleep_millisecs: int, cost: PageCost | None
) -> int | None:
    """The smallest ``pages_to_scan`` whose full scan takes at most ``target_seconds``.

    None if no setting does: visiting the pages alone takes longer.
    """
    asleep_seconds = target_seconds - (pages * cost.seconds if cost else 0.0)
    if asleep_seconds <= 0:
        return None
    if sleep_millisecs == 0:
        return max(pages, 1)
    wake_seconds = cost.terms.wake_seconds if cost and cost.terms else 0.0
    longest_ms = 1000 * (pause_seconds(1, sleep_millisecs, cost) + wake_seconds)
    batches = math.floor(asleep_seconds * 1000 / longest_ms)
    return pages // batches + 1 if batches else None


def pages_at_rest(merged_pages: int, unmerged_pages: int, smart_scan: bool) -> int:
    """Pages that a full scan processes once everything has merged.

    smart_scan skips an unmerged page in 8 scans of 9; merged pages are never skipped.
    """
    return merged_pages + (unmerged_pages // SKIPPING_SCANS if smart_scan else unmerged_pages)


@dataclass(frozen=True)
class Schedule:
    """Settings for a set of pages to scan.

    ``forecast``: what each full scan brings; ``as_set``: how fast, as the kernel is set now;
    ``as_proposed``: with what is proposed. ``first``: a full scan before anything has merged, with
    the kernel's present tunables, at the cost of the one that merges if terms are known;
    ``proposed``: the same with the ``pages_to_scan`` proposed, and a sleep where ksmd has none;
    ``at_rest``: a full scan with these once everything has merged.
    ``advisor``: its settings on kernels that have it; ``advised``: the scan that it settles at.
    ``running``: KSM is on.
    """

    target_seconds: float
    cost: CostRange
    forecast: Forecast
    as_set: Pace
    as_proposed: Pace
    first: ScanRange
    proposed: ScanRange
    at_rest: ScanRange
    advisor: AdvisorSettings | None
    advised: ScanRange | None
    running: bool

    @property
    def reaches_target(self) -> bool:
        """Whether the proposed scan takes no longer than asked for, whatever a page costs."""
        return self.proposed.most.seconds <= self.target_seconds * (1 + 1e-9)


def schedule(
    snapshot: Snapshot,
    prediction: Prediction,
    target_seconds: float = TARGET_SCAN_SECONDS,
    cost: PageCost | None = None,
    *,
    room: Workroom | None = None,
    keep_rows: bool = True,
) -> Schedule:
    """Settings that scan what ``prediction`` scans in ``target_seconds``; ``cost``: if known.

    ``room``: as for ``predict``. ``keep_rows``: False where nobody asks for those of ``prediction``
    afterwards: they are given back. Raises CannotAnswerError if the snapshot does not say how ksmd
    is set.
    """
    ksm, counters = snapshot.info["ksm"], prediction.counters
    pages = scanned_pages(prediction)
    sleep, pages_to_scan = settings_in(snapshot)
    costs = page_cost(snapshot, cost)
    merging = merging_work(prediction)
    dearest = costs.most.in_scan(merging)

    def scan(work: ScanWork, pages: int, pages_to_scan: int, sleep: int) -> ScanRange:
        ends = (end.in_scan(work) for end in (costs.least, costs.most))
        return ScanRange(*(scan_time(pages, pages_to_scan, sleep, end) for end in ends))

    paused = sleep or SLEEP_MILLISECS

    settings = replace(settings_of(snapshot), target_scan_time=round(target_seconds))
    advisor = settings if snapshot.info["features"].get("advisor") else None
    wanted = pages_to_scan_for(pages, target_seconds, paused, dearest)
    most = _pages_to_scan_of(settings.max_cpu / 100, paused, dearest)
    wanted = most if wanted is None else min(wanted, most)
    merged = counters["pages_shared"] + counters["pages_sharing"]
    rest = pages_at_rest(merged, pages - merged, prediction.smart_scan)
    advised = None
    if advisor:
        ends = (end.in_scan(merging) for end in (costs.least, costs.most))
        advised = ScanRange(*(advisor_course(pages, paused, end, advisor)[-1] for end in ends))
    resting = resting_work(prediction, rest)
    if not keep_rows:
        prediction.give_back()
    found = forecast(prediction.snapshot, prediction.policy, room=room, at_rest=prediction)
    on = settings_of(snapshot) if ksm.get("advisor_mode") == 1 else None
    return Schedule(
        target_seconds=target_seconds,
        cost=costs,
        forecast=found,
        as_set=pace(snapshot, found, pacing_of(snapshot, advisor=on), costs),
        as_proposed=pace(snapshot, found, Pacing(wanted, paused), costs),
        first=scan(merging, pages, pages_to_scan, sleep),
        proposed=scan(merging, pages, wanted, paused),
        at_rest=scan(resting, rest, wanted, paused),
        advisor=advisor,
        advised=advised,
        running=ksm.get("run") == 1,
    )


def settings_in(snapshot: Snapshot) -> tuple[int, int]:
    """sleep_millisecs and pages_to_scan; CannotAnswerError if the snapshot does not say."""
    ksm = snapshot.info["ksm"]
    try:
        return int(ksm["sleep_millisecs"]), int(ksm["pages_to_scan"])
    except KeyError as error:
        raise CannotAnswerError(
            f"the snapshot does not say how ksmd is set ({error.args[0]}): no time of a scan",
            hint="collect again with this version of ksm-estimator",
        ) from error


def _pages_to_scan_of(cpu_share: float, sleep_millisecs: int, cost: PageCost) -> int:
    """The most ``pages_to_scan`` that takes no more than ``cpu_share`` of a CPU, at least 1."""
    share = min(cpu_share, 0.99)  # advisor_max_cpu may be 100
    busy_seconds = share * sleep_millisecs / 1000 / (1 - share)
    wake_seconds = cost.terms.wake_seconds if cost.terms else 0.0
    return max(1, int((busy_seconds - wake_seconds) / cost.seconds))

"""How long the full scans of a forecast take, and the CPU time they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from estimator.advice.advisor import AdvisedPace, AdvisorSettings, AdvisorState
from estimator.advice.cost_terms import works
from estimator.advice.page_cost import CostRange, PageCost
from estimator.advice.scan_time import ScanTime, pause_seconds, scan_time
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import Forecast
from estimator.snapshot.snapshot import Snapshot

SHARES = (0.5, 0.9, 0.99)
"""The parts of the saving whose time is told."""


@dataclass(frozen=True)
class Pacing:
    """How fast ksmd is set to go.

    ``advisor``: its settings if it is on; ``pages_to_scan`` is then where it starts.
    ``advisor_was_on``: it was when the snapshot was taken, and what it remembers of scans before
    that is not known.
    """

    pages_to_scan: int
    sleep_millisecs: int
    advisor: AdvisorSettings | None = None
    advisor_was_on: bool = False


@dataclass(frozen=True)
class Timed:
    """Full scans in time.

    ``scans``: the counters after each, with ``pages_to_scan``, ``batches`` (ksmd sleeps after
    each), ``seconds`` (from the start of ksmd to the end of the scan), ``cpu_seconds`` (of ksmd
    until then), ``page_seconds`` (CPU time of a page of this scan) and ``pause_seconds`` (the sleep
    after each batch), if a page costs the most that it may. ``cheap``: these six columns if it
    costs the least.
    """

    pacing: Pacing
    cost: CostRange
    scans: pd.DataFrame
    cheap: pd.DataFrame

    def range_of(self, name: str, row: int) -> tuple[float, float]:
        """The least and the most of a column of ``cheap`` in a row."""
        low, high = sorted((float(self.cheap[name].iloc[row]), float(self.scans[name].iloc[row])))
        return low, high


@dataclass(frozen=True)
class Pace(Timed):
    """A forecast in time. ``marks``: the row of ``scans`` that reaches each of ``SHARES``."""

    marks: dict[float, int]


def pacing_of(
    snapshot: Snapshot,
    pages_to_scan: int | None = None,
    sleep_millisecs: int | None = None,
    advisor: AdvisorSettings | None = None,
) -> Pacing:
    """What is None is as in the snapshot's kernel; with ``pages_to_scan`` the advisor is off.

    An ``advisor`` that was not on starts with advisor_min_pages_to_scan. Raises CannotAnswerError
    if the snapshot does not say a setting.
    """
    ksm = snapshot.info["ksm"]
    was_on = advisor is not None and ksm.get("advisor_mode") == 1
    if advisor is not None and not was_on:
        pages_to_scan = advisor.min_pages_to_scan
    return Pacing(
        _setting(ksm.get("pages_to_scan"), pages_to_scan, "pages-to-scan"),
        _setting(ksm.get("sleep_millisecs"), sleep_millisecs, "sleep"),
        advisor,
        was_on,
    )


def pace(snapshot: Snapshot, forecast: Forecast, pacing: Pacing, costs: CostRange) -> Pace:
    """When ksmd ends each scan if a page costs so much."""
    pages = np.diff(forecast.scans["pages_scanned"], prepend=0).tolist()
    most, least = (
        in_time(snapshot, pages, pacing, _in_scans(forecast, end))
        for end in (costs.most, costs.least)
    )
    scans = pd.concat([forecast.scans, most], axis=1)
    return Pace(pacing, costs, scans, least, _marks(forecast))


def _in_scans(forecast: Forecast, cost: PageCost) -> list[PageCost]:
    """What a page costs in each scan."""
    if cost.terms is None:
        return [cost] * len(forecast.scans)
    return [cost.in_scan(work) for work in works(forecast)]


def in_time(
    snapshot: Snapshot, pages: list[int], pacing: Pacing, costs: list[PageCost]
) -> pd.DataFrame:
    """Full scans of so many pages each, at these costs: the columns of ``Timed.cheap``."""
    scan_of = one_after_the_other(snapshot, pacing)
    scans = [scan_of(number, cost) for number, cost in zip(pages, costs, strict=True)]
    pauses = [
        pause_seconds(scan.pages_to_scan, pacing.sleep_millisecs, cost)
        for scan, cost in zip(scans, costs, strict=True)
    ]
    page_seconds = [
        cost.in_batches(scan.pages_to_scan) for scan, cost in zip(scans, costs, strict=True)
    ]
    return pd.DataFrame(
        {
            "pages_to_scan": [scan.pages_to_scan for scan in scans],
            "batches": [scan.batches for scan in scans],
            "seconds": np.cumsum([scan.seconds for scan in scans]) - pauses,
            "cpu_seconds": np.cumsum(np.array(pages) * page_seconds),
            "page_seconds": page_seconds,
            "pause_seconds": pauses,
        }
    )


def one_after_the_other(snapshot: Snapshot, pacing: Pacing) -> Callable[[int, PageCost], ScanTime]:
    """What times the next full scan, by its pages and what one costs, each time it is called."""
    if pacing.advisor is None:
        return lambda pages, cost: scan_time(
            pages, pacing.pages_to_scan, pacing.sleep_millisecs, cost
        )
    before = 0 if pacing.advisor_was_on else snapshot.info["ksm"].get("ksmd_cpu_ns") or 0
    start = AdvisorState(pacing.pages_to_scan)
    return AdvisedPace(pacing.sleep_millisecs, pacing.advisor, start, before / 1e9).scan


def _setting(of_kernel: object, given: int | None, option: str) -> int:
    if given is not None:
        return given
    if not isinstance(of_kernel, int):
        raise CannotAnswerError(
            f"the snapshot does not say how ksmd is set: no time of a scan without --{option}"
        )
    return of_kernel


def _marks(forecast: Forecast) -> dict[float, int]:
    saved, whole = forecast.scans["bytes_saved"], forecast.at_rest.physical["bytes_saved"]
    reached = {share: saved >= share * whole for share in SHARES if whole > 0}
    return {
        share: int(there.to_numpy().argmax()) for share, there in reached.items() if there.any()
    }

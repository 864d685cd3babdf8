"""Settings that reach a part of the saving in a given time, at no more than so much of a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.advice.cost_terms import works
from estimator.advice.page_cost import PageCost
from estimator.advice.scan_time import pause_seconds
from estimator.advice.schedule import SLEEP_MILLISECS
from estimator.arrays import Ints
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import Forecast


@dataclass(frozen=True)
class Wish:
    """``share`` of the saving within ``seconds``, for at most ``cpu_share`` of a CPU so far."""

    share: float
    seconds: float
    cpu_share: float


@dataclass(frozen=True)
class Reach:
    """Whether a wish can be met, and the settings that meet it, or come next to it.

    ``possible``: with ``pages_to_scan`` and ``sleep_millisecs``; if not, these keep to the CPU
    share and take longer. ``full_scans``: after which the share is reached; ``seconds`` and
    ``cpu_share``: by then. ``least_cpu_share``: without so much it can't be reached in the time
    asked for, whatever the settings; more than 1: not at all.
    """

    wish: Wish
    possible: bool
    pages_to_scan: int
    sleep_millisecs: int
    full_scans: int
    seconds: float
    cpu_share: float
    least_cpu_share: float


def reach(forecast: Forecast, wish: Wish, sleep_millisecs: int, cost: PageCost) -> Reach:
    """The fewest pages_to_scan that are in time, else the most that keep to the CPU share.

    ``cost``: of a page; the most that it may cost is safe. ``sleep_millisecs``: 0 is taken for the
    kernel's default, since ksmd would never pause. Raises CannotAnswerError if nothing is saved,
    or the forecast ends before the share is.
    """
    pages = _pages_until(forecast, wish.share)
    sleep_millisecs = sleep_millisecs or SLEEP_MILLISECS
    costs = [cost.in_scan(work) for work in works(forecast)[: len(pages)]]

    def busy_seconds(pages_to_scan: int) -> float:
        return float(pages @ [each.in_batches(pages_to_scan) for each in costs])

    def seconds(pages_to_scan: int) -> float:
        pauses = np.array([pause_seconds(pages_to_scan, sleep_millisecs, each) for each in costs])
        batches = pages // pages_to_scan + 1
        return float(batches @ pauses - pauses[-1]) + busy_seconds(pages_to_scan)

    def slowest_seconds(pages_to_scan: int) -> float:
        return busy_seconds(pages_to_scan) / wish.cpu_share

    low, high = 0, int(pages.max()) + 1  # too slow, and as fast as can be
    while high - low > 1:
        middle = (low + high) // 2
        fast = seconds(middle) <= max(wish.seconds, slowest_seconds(middle))
        low, high = (low, middle) if fast else (middle, high)
    in_budget = seconds(high) >= slowest_seconds(high)
    chosen = high if in_budget else max(low, 1)
    took = seconds(chosen)
    return Reach(
        wish=wish,
        possible=in_budget and took <= wish.seconds,
        pages_to_scan=chosen,
        sleep_millisecs=sleep_millisecs,
        full_scans=len(pages),
        seconds=took,
        cpu_share=busy_seconds(chosen) / took,
        least_cpu_share=busy_seconds(int(pages.max()) + 1) / wish.seconds,
    )


def _pages_until(forecast: Forecast, share: float) -> Ints:
    """Pages that each full scan visits, up to the one after which the share is saved."""
    whole = forecast.at_rest.physical["bytes_saved"]
    if whole <= 0:
        raise CannotAnswerError("KSM saves nothing here: there is nothing to reach")
    there = (forecast.scans["bytes_saved"] >= share * whole).to_numpy()
    if not there.any():
        raise CannotAnswerError(
            f"{share:.0%} of the saving is not reached in {len(there):,} full scans",
            hint="follow more of them with --scans",
        )
    scanned = forecast.scans["pages_scanned"].to_numpy()[: int(there.argmax()) + 1]
    return np.diff(scanned, prepend=0)

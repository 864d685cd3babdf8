"""How long one full scan takes, in batches of pages_to_scan with a sleep after each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from estimator.advice.page_cost import PageCost


@dataclass(frozen=True)
class ScanTime:
    """One full scan.

    ``cpu_share`` (of one CPU) is None where the cost of a page is not known; ``seconds`` is then
    the time asleep alone, a lower bound.
    """

    pages: int
    pages_to_scan: int
    sleep_millisecs: int
    seconds: float
    cpu_share: float | None

    @property
    def batches(self) -> int:
        """How often ksmd sleeps in it (ksm_scan_thread() in mm/ksm.c)."""
        return batches_of(self.pages, self.pages_to_scan)


def batches_of(pages: int, pages_to_scan: int) -> int:
    """Batches of a full scan of ``pages`` pages, the last of which may be empty."""
    return pages // pages_to_scan + 1


def scan_time(
    pages: int, pages_to_scan: int, sleep_millisecs: int, cost: PageCost | None
) -> ScanTime:
    """The time of one full scan of ``pages`` pages.

    Batches are floor(pages / pages_to_scan) + 1, each followed by a sleep.
    """
    batches = batches_of(pages, pages_to_scan)
    cpu_seconds = pages * cost.in_batches(pages_to_scan) if cost else 0.0
    seconds = batches * pause_seconds(pages_to_scan, sleep_millisecs, cost) + cpu_seconds
    share = cpu_seconds / seconds if cost and seconds else None
    return ScanTime(pages, pages_to_scan, sleep_millisecs, seconds, share)


def pause_seconds(pages_to_scan: int, sleep_millisecs: int, cost: PageCost | None) -> float:
    """How long ksmd sleeps after a batch: ``sleep_millisecs``, rounded where the tick is known.

    schedule_timeout() wakes it on a tick, one later than asked for (calc_index() in
    kernel/time/timer.c). It began to sleep somewhere within a tick: half way on the average, or
    after its work where it had less of it than a tick.
    """
    asked = sleep_millisecs / 1000
    if cost is None or cost.terms is None or not asked:
        return asked
    tick = cost.terms.tick_seconds
    begun_after = min(pages_to_scan * cost.in_batches(pages_to_scan), tick / 2)
    return math.ceil(round(asked / tick, 9)) * tick + tick - begun_after

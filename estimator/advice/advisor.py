"""The kernel's scan-time advisor (6.8+), which sets pages_to_scan after every full scan."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.advice.page_cost import PageCost
from estimator.advice.scan_time import ScanTime, pause_seconds, scan_time
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class AdvisorSettings:
    """The tunables of the scan-time advisor, with the kernel's defaults.

    ``max_cpu`` in percent, ``target_scan_time`` in seconds, the others in pages.
    """

    target_scan_time: int = 200
    max_cpu: int = 70
    min_pages_to_scan: int = 500
    max_pages_to_scan: int = 30000


@dataclass(frozen=True)
class AdvisorState:
    """What the advisor remembers from one full scan to the next (advisor_ctx in mm/ksm.c)."""

    pages_to_scan: int
    change: int = 0
    previous_scan_seconds: int = 0


_EWMA_WEIGHT = 30
ADVISOR_MIN_CPU = 10
"""KSM_ADVISOR_MIN_CPU: the advisor uses at least this much of a CPU, in percent."""


def settings_of(snapshot: Snapshot) -> AdvisorSettings:
    """As the snapshot's kernel has them; the kernel's defaults for what it does not say."""
    ksm, default = snapshot.info["ksm"], AdvisorSettings()
    return AdvisorSettings(
        **{name: int(ksm.get(f"advisor_{name}", value)) for name, value in vars(default).items()}
    )


def advise_scan_time(
    state: AdvisorState, settings: AdvisorSettings, scan_seconds: float, cpu_seconds: float
) -> AdvisorState:
    """One step of the kernel's scan_time_advisor(), after a full scan, in its integer arithmetic.

    ``cpu_seconds``: ksmd's CPU time since the step before, or since boot if there was none.
    advisor_min_pages_to_scan is only where the advisor starts, no lower bound.
    """
    scan = max(1, int(scan_seconds))
    cpu_percent = max(1, int(cpu_seconds * 1000) * 100 // (scan * 1000))
    factor = max(1, settings.target_scan_time * 100 // scan)
    change = max(1, scan * 100 // (state.previous_scan_seconds or scan))
    change = ((100 - _EWMA_WEIGHT) * state.change + _EWMA_WEIGHT * change) // 100
    per_percent = max(1, state.pages_to_scan // cpu_percent)
    pages = state.pages_to_scan * 100 // factor
    pages = pages * change // 100
    pages = min(pages, per_percent * settings.max_cpu)
    pages = max(pages, per_percent * ADVISOR_MIN_CPU)
    return AdvisorState(min(pages, settings.max_pages_to_scan), change, scan)


class AdvisedPace:
    """ksmd under the advisor, one full scan after the other.

    The advisor takes the time from the first page to the last, without the sleep after that.
    ``cpu_seconds_before``: what ksmd has used already when the first scan begins.
    """

    def __init__(
        self,
        sleep_millisecs: int,
        settings: AdvisorSettings,
        start: AdvisorState,
        cpu_seconds_before: float = 0.0,
    ) -> None:
        self._sleep_millisecs, self._settings = sleep_millisecs, settings
        self._state, self._before = start, cpu_seconds_before

    def scan(self, pages: int, cost: PageCost) -> ScanTime:
        """The next one, of so many pages."""
        pages_to_scan = max(self._state.pages_to_scan, 1)
        scan = scan_time(pages, pages_to_scan, self._sleep_millisecs, cost)
        awake_seconds = self._before + pages * cost.in_batches(pages_to_scan)
        lasted = scan.seconds - pause_seconds(pages_to_scan, self._sleep_millisecs, cost)
        self._state = advise_scan_time(self._state, self._settings, lasted, awake_seconds)
        self._before = 0.0
        return scan


def advisor_course(
    pages: int,
    sleep_millisecs: int,
    cost: PageCost,
    settings: AdvisorSettings,
    scans: int = 30,
) -> list[ScanTime]:
    """The first ``scans`` full scans of ``pages`` pages with the advisor switched on."""
    start = AdvisorState(settings.min_pages_to_scan)
    ksmd = AdvisedPace(sleep_millisecs, settings, start)
    return [ksmd.scan(pages, cost) for _ in range(scans)]

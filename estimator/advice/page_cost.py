"""What a page costs ksmd, in CPU time: published, given, or measured on the machine itself.

It depends on the processor, on the kernel and on how cold the memory is, and can't be known from
what is in memory. So by default it is a range, between figures of others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from estimator.advice.cost_terms import CostTerms, ScanWork
from estimator.snapshot.snapshot import Snapshot

_ENOUGH_SECONDS, _ENOUGH_PAGES = 0.1, 1_000
"""Less than this of ksmd is no measurement."""
_ALONE_PAGES = 1 << 20


@dataclass(frozen=True)
class PageCost:
    """CPU time that ksmd needs per page, and where the number comes from.

    ``terms``: of its steps, where they are known; what a page costs is then different in each scan
    (``in_scan``) and with each ``pages_to_scan`` (``in_batches``).
    """

    seconds: float
    source: str
    terms: CostTerms | None = None

    def in_scan(self, work: ScanWork) -> PageCost:
        """The cost of a page, on the average, in a scan that does so much."""
        if self.terms is None or not work.visited_pages:
            return self
        seconds = work.cpu_seconds(self.terms) / work.visited_pages
        wake_seconds = self.terms.wake_seconds * work.hashed_pages / work.visited_pages
        return replace(self, seconds=seconds, terms=replace(self.terms, wake_seconds=wake_seconds))

    def in_batches(self, pages_to_scan: int) -> float:
        """Seconds a page if ksmd wakes up for so many."""
        return self.seconds + (self.terms.wake_seconds / pages_to_scan if self.terms else 0.0)


@dataclass(frozen=True)
class CostRange:
    """The cost of a page lies between ``least`` and ``most``; equal where it is known."""

    least: PageCost
    most: PageCost


PUBLISHED = CostRange(
    PageCost(3.4e-6, "Meta's servers: 30 % of a CPU at 2,500 pages_to_scan and 20 ms"),
    PageCost(10.2e-6, "a virtual machine, 6.18: CPU time of ksmd / pages_scanned"),
)


def measured_cost(ksmd_cpu_seconds: float, pages_scanned: int) -> PageCost | None:
    """The cost of a page by what ksmd has done since boot; None where that is too little."""
    if ksmd_cpu_seconds < _ENOUGH_SECONDS or pages_scanned < _ENOUGH_PAGES:
        return None
    return PageCost(
        ksmd_cpu_seconds / pages_scanned,
        f"measured: {ksmd_cpu_seconds:.1f} s of ksmd for {pages_scanned:,} pages since boot",
    )


def cost_by_terms(terms: CostTerms, source: str) -> PageCost:
    """``seconds``: of a page that stays alone among ``_ALONE_PAGES``."""
    alone = ScanWork(1, 1, math.log2(_ALONE_PAGES), math.log2(_ALONE_PAGES), 0, 0)
    return PageCost(alone.cpu_seconds(terms), source, terms)


def page_cost(snapshot: Snapshot, given: PageCost | None = None) -> CostRange:
    """``given``, else what ksmd's own figures in ``snapshot`` say, else ``PUBLISHED``."""
    if given is not None:
        return CostRange(given, given)
    cpu_ns, scanned = snapshot.info["ksm"].get("ksmd_cpu_ns"), _scanned_pages(snapshot)
    if cpu_ns is None or scanned is None:
        return PUBLISHED
    costs = [measured_cost(cpu_ns / 1e9, pages) for pages in scanned]
    least, most = costs[1], costs[0]
    return PUBLISHED if least is None or most is None else CostRange(least, most)


def _scanned_pages(snapshot: Snapshot) -> tuple[int, int] | None:
    """The fewest and the most pages that ksmd has visited since boot; None: not known.

    Before 730cdc2c72c6 (6.10, and stable releases) ksm_do_scan() in mm/ksm.c counts batches that
    are full, each as a page more, and not the last one of a full scan.
    """
    ksm = snapshot.info["ksm"]
    counters, batch = ksm.get("counters", {}), ksm.get("pages_to_scan")
    scanned, scans = counters.get("pages_scanned"), counters.get("full_scans")
    if scanned is None:
        return None
    if snapshot.info["features"].get("counts_each_scanned_page", True):
        return scanned, scanned
    if not batch or scans is None:
        return None
    fewest = scanned * batch // (batch + 1)
    return fewest, fewest + scans * (batch - 1)

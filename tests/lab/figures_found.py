"""All that the page of published figures shows: forecasts, and the truth of the guest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.figures import (
    Forecasts,
    NodeScan,
    ScanRow,
    node_scans,
    scan_rows,
    virt_handler_sleep,
)
from tests.lab.figures_guest import PACES, SCANS, GuestTruth
from tests.lab.figures_tables import Compared, compare_history

COSTS = (3.4, 6.0)
"""Microseconds per page that the published shares of a CPU come to, at rest and at the start."""
BUSY = COSTS[-1]
PAGES_TO_SCAN = (100, 1000, 2000, 3000, 4000, 5000)
ADVISED_SCANS = 40
FEWER_PROCESSES = 28
"""So many have 14.9 M candidates: "less than 15M pages" are left to a scan by smart_scan."""
SWEEPS = {16: "3.5 min", 96: "21 min", 256: "56 min", 512: "112 min", 1024: "112 min"}
"""The table of ksm-tune.py: pages_to_scan 1000, sleep_millisecs 50, and 25 for the last."""
VIRT_HANDLER_PAGES = 1250
USED = 0.8


@dataclass(frozen=True)
class Found:
    """All that the page shows.

    ``by_cost``: a full scan for each cost in microseconds and pages_to_scan. ``smart``, ``eighth``:
    scans with smart_scan on, at full scale and in the guest; ``timed``: the guest's by
    pages_to_scan. ``advised_all``: with the advisor, of all pages at the cost ``BUSY``;
    ``advised_fewer``: of fewer pages, for each cost.
    ``node_cost``: microseconds per page that the nodes' scans are forecast with.
    """

    at_rest: dict[str, Any]
    by_cost: dict[float, dict[int, ScanRow]]
    smart: list[ScanRow]
    eighth: list[ScanRow]
    timed: dict[int, list[ScanRow]]
    advised_all: list[ScanRow]
    advised_fewer: dict[float, list[ScanRow]]
    compared: Compared
    truth: GuestTruth
    sweeps: list[NodeScan]
    virt_handler: list[NodeScan]
    node_cost: tuple[float, float]


def find(keep: Path, truth: GuestTruth) -> Found:
    """Ask for every forecast."""
    forecasts = Forecasts(keep)
    enabled = ("--scope", "enabled")
    fixed, smart = (*enabled, "--no-smart-scan"), (*enabled, "--smart-scan")
    by_cost: dict[float, dict[int, ScanRow]] = {}
    for cost in COSTS:
        for number in PAGES_TO_SCAN:
            pace = ("--pages-to-scan", number, "--page-cost", cost, "--scans", 2)
            answer = forecasts.ask("instagram", *fixed, *pace)
            by_cost.setdefault(cost, {})[number] = scan_rows(answer)[-1]
    advisor = (*fixed, "--advisor", "scan-time", "--scans", ADVISED_SCANS, "--page-cost")
    fewer = [word for pid in range(FEWER_PROCESSES) for word in ("--pid", 1_000 + pid)]
    scans = SCANS + 1 + len(PACES)
    guest = {
        number: forecasts.ask("guest", *smart, "--pages-to-scan", number, "--scans", scans)
        for number in PACES
    }
    sweeps = [(gib, 1000, 25 if gib == 1024 else 50) for gib in SWEEPS]
    handled = [(gib, VIRT_HANDLER_PAGES, virt_handler_sleep(gib, USED)) for gib in SWEEPS]
    smart_answer = forecasts.ask("instagram", *smart, "--scans", SCANS)
    unknown = smart_answer["cost"]
    return Found(
        answer,
        by_cost,
        scan_rows(smart_answer),
        scan_rows(guest[PACES[0]]),
        {number: scan_rows(told) for number, told in guest.items()},
        scan_rows(forecasts.ask("instagram", *advisor, BUSY)),
        {cost: scan_rows(forecasts.ask("instagram", *advisor, cost, *fewer)) for cost in COSTS},
        compare_history(truth, guest[PACES[0]]),
        truth,
        list(node_scans(forecasts, sweeps)),
        list(node_scans(forecasts, handled)),
        (1e6 * unknown["least"]["seconds"], 1e6 * unknown["most"]["seconds"]),
    )

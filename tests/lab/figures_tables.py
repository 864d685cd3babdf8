"""The tables of the page of published figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from estimator.advice.advisor import AdvisorSettings, AdvisorState, advise_scan_time
from tests.lab.figures import NodeScan, ScanRow, skipped_until
from tests.lab.figures_guest import ADVISOR_SECONDS, GuestTruth, TimedScan
from tests.lab.instagram import PUBLISHED
from tests.lab.truth import HISTORY


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; all columns but the first are numbers if their names end in a space."""
    lines = [
        f"| {' | '.join(name.strip() for name in columns)} |",
        f"| {' | '.join('---:' if name.endswith(' ') else '---' for name in columns)} |",
    ]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def minutes(seconds: float) -> str:
    """As minutes, or hours from four on: "3.4 min"."""
    if seconds >= 4 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min"


def share(part: float) -> str:
    """In whole percent."""
    return f"{100 * part:.0f} %"


def counters_table(answer: dict[str, Any]) -> str:
    """The published counters, and those of the forecast at rest."""
    at_rest = answer["at_rest"]
    columns = ("counter", "published ", "forecast ", "difference ")
    return table(
        columns,
        [
            (name, f"{value:,}", f"{at_rest[name]:,}", f"{at_rest[name] - value:+,}")
            for name, value in PUBLISHED.items()
        ],
    )


def scan_time_table(by_cost: dict[float, dict[int, ScanRow]]) -> str:
    """A full scan by pages_to_scan, for each cost of a page in microseconds."""
    columns = ["pages_to_scan ", "batches "]
    for cost in by_cost:
        columns += [f"full scan at {cost:g} µs ", f"of a CPU at {cost:g} µs "]
    rows = []
    for pages_to_scan, any_row in next(iter(by_cost.values())).items():
        cells: list[object] = [f"{pages_to_scan:,}", f"{any_row.batches:,}"]
        for rows_of_cost in by_cost.values():
            row = rows_of_cost[pages_to_scan]
            cells += [minutes(row.seconds[1]), share(row.cpu_share[1])]
        rows.append(cells)
    return table(columns, rows)


def timed_pairs(
    truth: GuestTruth, forecasts: dict[int, list[ScanRow]]
) -> list[tuple[TimedScan, ScanRow]]:
    """Each scan that was timed in the guest, and its forecast."""
    before = _before(truth)
    return [
        (scan, forecasts[scan.pages_to_scan][scan.full_scan - before - 1]) for scan in truth.timed
    ]


def _before(truth: GuestTruth) -> int:
    """Full scans of the guest before the first one that was watched."""
    return int(truth.history[0]["full_scans"]) - 1


def timed_table(truth: GuestTruth, forecasts: dict[int, list[ScanRow]]) -> str:
    """Pages and batches of the scans that were timed in the guest, and what a sleep took there.

    ``forecasts``: the scans, by pages_to_scan.
    """
    columns = (
        *("pages_to_scan ", "full scan ", "pages, forecast ", "pages, ksmd "),
        *("batches, forecast ", "sleeps, ksmd ", "a sleep took "),
    )
    first = _before(truth)
    rows = []
    for scan, row in timed_pairs(truth, forecasts):
        asleep = (scan.seconds - scan.cpu_seconds) / scan.sleeps
        pages = (scan.pages_to_scan, scan.full_scan - first, row.pages, scan.pages_scanned)
        cells = (*pages, row.batches, scan.sleeps)
        rows.append([*(f"{cell:,}" for cell in cells), f"{1000 * asleep:.1f} ms"])
    return table(columns, rows)


@dataclass(frozen=True)
class Compared:
    """Counters of all scans: how many were compared, and those that differ, with both numbers."""

    compared: int
    different: dict[str, tuple[int, int]]


def compare_history(truth: GuestTruth, answer: dict[str, Any]) -> Compared:
    """Every counter after every full scan, forecast and true."""
    different, compared = {}, 0
    for number, (ours, true) in enumerate(zip(answer["scans"], truth.history, strict=False), 1):
        for name in HISTORY[1:]:
            compared += 1
            if ours[name] != true[name]:
                different[f"{name} after scan {number}"] = (ours[name], true[name])
    return Compared(compared, different)


def skip_table(full: list[ScanRow], guest: list[ScanRow], truth: GuestTruth) -> str:
    """The part of all visits that smart_scan saved to pages that live for so many full scans."""
    columns = (
        *("full scans that a page lives ", "skipped of them, full scale "),
        *("an eighth: forecast ", "an eighth: ksmd "),
    )
    ours, eighth = skipped_until(full), skipped_until(guest)
    rows = []
    for number, true in enumerate(truth.history, 1):
        every = true["pages_skipped"] + true["pages_scanned"]
        shares = (ours[number - 1], eighth[number - 1], true["pages_skipped"] / every)
        rows.append([number, *(f"{100 * part:.1f} %" for part in shares)])
    return table(columns, rows)


def advised_by_rule(truth: GuestTruth) -> list[int]:
    """pages_to_scan that the rule makes of each full scan with the guest's advisor on."""
    settings = AdvisorSettings(target_scan_time=ADVISOR_SECONDS)
    state = AdvisorState(settings.min_pages_to_scan)
    found = []
    for seconds, _, percent in truth.advised:
        cpu_seconds = (percent + 0.5) / 100 * seconds  # the trace event has whole percent
        state = advise_scan_time(state, settings, seconds, cpu_seconds)
        found.append(state.pages_to_scan)
    return found


def advised_table(truth: GuestTruth) -> str:
    """What the guest's advisor set after each full scan, and what the rule makes of the same."""
    rows = [
        (number, f"{seconds} s", f"{percent} %", f"{ours:,}", f"{pages_to_scan:,}")
        for number, (ours, (seconds, pages_to_scan, percent)) in enumerate(
            zip(advised_by_rule(truth), truth.advised, strict=True), 1
        )
    ]
    columns = ("scan ", "took ", "of a CPU ", "pages_to_scan, by the rule ", "set by the kernel ")
    return table(columns, rows)


def node_table(scans: Iterable[NodeScan], published: dict[int, str]) -> str:
    """Full scans of nodes beside those ``published``, by GiB."""
    columns = ["node ", "pages_to_scan ", "sleep_millisecs "]
    columns += ["published "] if published else []
    columns += ["forecast ", "all merged after "]
    rows = []
    for scan in scans:
        ends = [minutes(seconds) for seconds in scan.seconds]
        told = " to ".join(dict.fromkeys(ends)) + ("" if scan.made_up else " *")
        cells = [f"{scan.gib:,} GiB", f"{scan.pages_to_scan:,}", str(scan.sleep_millisecs)]
        cells += [published[scan.gib]] if published else []
        rows.append([*cells, told, f"{scan.merged_after_scans} scans"])
    return table(columns, rows)

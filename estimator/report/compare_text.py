"""Comparisons as text: two predictions, and a prediction beside the running system."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console

from estimator.advice.compare import Comparison
from estimator.advice.verify import Verification
from estimator.report.layout import Column, bullets, heading, pages, prose, table
from estimator.report.units import count, human_bytes, plural


def _signed(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:+,}" if value else "0"


def _number(value: Any) -> str:
    return "-" if pd.isna(value) else count(value)


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print what changed from A to B and which programs did it."""
    numbers = comparison.numbers.set_index("number")
    net = numbers.loc["net_bytes_saved"]
    before, after = int(net["a"]), int(net["b"])
    direction = "more" if after >= before else "less"
    prose(
        console,
        f"B would free {human_bytes(abs(after - before))} {direction} than A: "
        f"{human_bytes(after)} net instead of {human_bytes(before)}.",
        style="bold",
    )
    if len(comparison.settings):
        heading(console, "What the two rest on differs")
        columns = [Column("setting", "setting"), Column("A", "a"), Column("B", "b")]
        table(console, comparison.settings, columns)
    heading(console, "What changed")
    columns = [
        Column("", "number"),
        Column("A", "a", _number, number=True),
        Column("B", "b", _number, number=True),
        Column("change", "change", _signed, number=True),
    ]
    table(console, comparison.numbers, columns, limit=len(comparison.numbers))
    heading(console, "Which programs did it")
    programs = comparison.programs
    columns = [
        Column("comm", "comm"),
        Column("cgroup", "cgroup", wide=True),
        pages("processes A", "processes_a"),
        pages("B", "processes_b"),
        Column("scanned pages", "ksm_rmap_items_change", _signed, number=True),
        Column("merging pages", "ksm_merging_pages_change", _signed, number=True),
        Column("profit", "ksm_process_profit_change", human_bytes, number=True),
    ]
    changed = [f"{name}_change" for name in ("ksm_rmap_items", "ksm_merging_pages")]
    table(console, programs[(programs[changed] != 0).any(axis=1)], columns)


def render_verification(verification: Verification, console: Console) -> None:
    """Print prediction and reality side by side."""
    counters = verification.counters
    known = counters.dropna()
    same = int((known["difference"] == 0).sum())
    prose(
        console,
        f"{same} of the {plural(len(known), 'counter')} that this kernel shows are as predicted.",
        style="bold",
    )
    bullets(console, verification.caveats, style="yellow")
    heading(console, "Counters of /sys/kernel/mm/ksm")
    side_by_side = [
        Column("predicted", "predicted", _number, number=True),
        Column("real", "real", _number, number=True),
        Column("difference", "difference", _signed, number=True),
    ]
    table(console, counters, [Column("counter", "counter"), *side_by_side])
    heading(console, "Processes: /proc/PID/ksm_stat")
    rows = verification.processes
    different = rows[rows["difference"] != 0]
    prose(
        console,
        f"{plural(len(rows) - len(different), 'number')} of {count(len(rows))} are as predicted; "
        f"{plural(verification.gone, 'process')} of the snapshot no longer run.",
    )
    order = different["difference"].abs().sort_values(ascending=False, kind="stable").index
    if len(different):
        names = [Column("pid", "pid", str, number=True), Column("comm", "comm")]
        table(console, different.loc[order], [*names, Column("", "counter"), *side_by_side])
    if verification.page_cost:
        cost = verification.page_cost
        heading(console, "Cost of a page")
        prose(console, f"{cost.seconds * 1e6:.3g} µs of CPU; {cost.source}.")

"""The parts of a report, as data: text, HTML and notebook show the same ones."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from estimator.ksm.coverage import Coverage
from estimator.ksm.prediction import Prediction
from estimator.report import words
from estimator.report.summary import Summary, summarize
from estimator.report.tables import Column, memory, pages
from estimator.report.units import count, human_bytes, plural, printable
from estimator.snapshot.snapshot import Snapshot

WARNINGS = "Before you trust these numbers"


@dataclass(frozen=True)
class Section:
    """One part of a report: a title, then any of table, bullets, paragraph and lines to copy.

    ``limit``: how many rows of the table a terminal shows.
    """

    title: str
    rows: pd.DataFrame | None = None
    columns: list[Column] = field(default_factory=list)
    limit: int = 15
    bullets: list[str] = field(default_factory=list)
    note: str = ""
    commands: str = ""


def prediction_sections(snapshot: Snapshot, prediction: Prediction) -> list[Section]:
    """The report of ``prediction``: the verdict, counters, savings, coverage, contributors ..."""
    summary = summarize(snapshot, prediction)
    sections = [
        _verdict(prediction, summary),
        Section(WARNINGS, bullets=prediction.warnings),
        _counters(prediction, summary),
        _savings(summary),
        coverage_section(summary.coverage, summary.page_bytes),
        *_contributors(summary),
    ]
    if len(summary.contents):
        sections.append(_contents(summary))
    if len(summary.excluded):
        sections.append(excluded_section(summary.excluded, summary.page_bytes))
    return sections


def _verdict(prediction: Prediction, summary: Summary) -> Section:
    return Section(
        words.verdict(prediction.policy, summary.savings, summary.coverage),
        note=words.coverage_words(summary.coverage, summary.page_bytes),
    )


def _counters(prediction: Prediction, summary: Summary) -> Section:
    rows = summary.counters.copy()
    unit = {"general_profit": 1, "stable_node_chains": math.nan, "stable_node_dups": math.nan}
    rows["memory"] = rows["predicted"] * [unit.get(n, summary.page_bytes) for n in rows["counter"]]
    columns = [Column("counter", "counter"), pages("predicted", "predicted")]
    if rows["now"].fillna(0).any():
        columns.append(Column("now", "now", _maybe_count, number=True))
    columns += [
        Column("memory", "memory", lambda n: "" if math.isnan(n) else human_bytes(n), number=True),
        Column("meaning", "meaning"),
    ]
    title = f"Counters of /sys/kernel/mm/ksm at rest, after {plural(prediction.scans, 'full scan')}"
    return Section(title, rows, columns, note=words.smart_scan_words(prediction))


def _maybe_count(number: Any) -> str:
    return "-" if pd.isna(number) else count(number)


def _savings(summary: Summary) -> Section:
    s = summary.savings
    rows = pd.DataFrame(
        [
            ("general_profit", s.general_profit_bytes, "what the kernel will claim"),
            ("frames that become free", s.freed_bytes, "what the machine gets back"),
            ("less KSM's records", -s.bookkeeping_bytes, "rmap_items, stable nodes, mm slots"),
            ("net", s.net_bytes, "the saving meant in the first sentence"),
        ],
        columns=["what", "bytes", "meaning"],
    )
    columns = [Column("", "what"), memory("", "bytes"), Column("", "meaning")]
    return Section("Two savings", rows, columns, note=words.why_they_differ(s))


def coverage_section(c: Coverage, page_bytes: int) -> Section:
    """What of the candidates was read, and why the rest was not."""
    rows = [("visited by ksmd, content known", c.hashed_pages)]
    rows += [
        (f"visited, not known: {reason.replace('_', ' ')}", n)
        for reason, n in c.unknown_by_reason.items()
    ]
    others = [
        ("not known: page table not readable, or changing", c.page_table_missing_pages),
        ("not known: the kernel counts it, no process was found to map it", c.lost_pages),
        ("not visited now: swapped out", c.swap_pages),
        ("not visited now: migrating, poisoned or on a device", c.nonpresent_pages),
    ]
    rows += [(what, n) for what, n in others if n]
    columns = [
        Column("", "what"),
        pages("pages", "pages"),
        memory("memory", "pages", page_bytes),
    ]
    return Section("Coverage", pd.DataFrame(rows, columns=["what", "pages"]), columns)


def _contributors(summary: Summary) -> list[Section]:
    size = summary.page_bytes
    amounts = [
        memory("scanned", "ksm_rmap_items", size),
        memory("merged", "ksm_merging_pages", size),
        pages("zero pages", "ksm_zero_pages", wide=True),
        pages("not read", "unknown_pages", wide=True),
        memory("frees", "saved_pages", size),
        memory("net", "profit_bytes"),
    ]
    processes = pages("processes", "processes")
    unit = [Column("unit", "unit"), Column("cgroup", "cgroup", wide=True), processes]
    process = [
        Column("pid", "pid", str, number=True),
        Column("comm", "comm"),
        Column("unit", "unit", wide=True),
        Column("uid", "uid", str, number=True, wide=True),
    ]
    name = [Column("VMA", "label"), Column("comm", "comm"), processes]
    return [
        Section("Who contributes: services and cgroups", summary.units, unit + amounts, limit=10),
        Section("Who contributes: processes", summary.processes, process + amounts),
        Section(
            "Who contributes: VMAs by name",
            summary.vma_names,
            name + amounts,
            note=words.self_words(summary.between_processes),
        ),
    ]


def _contents(summary: Summary) -> Section:
    rows = summary.contents.copy()
    rows["where"] = [content_words(row) for row in rows.to_dict("records")]
    columns = [
        pages("contents", "contents"),
        pages("frames of each", "frames"),
        pages("mappings of each", "mappings", wide=True),
        memory("frees", "saved_pages", summary.page_bytes),
        Column("where", "where"),
    ]
    return Section("Most duplicated contents", rows, columns)


def content_words(row: Mapping[Hashable, Any]) -> str:
    """Who holds a row of ``Prediction.contents``, and one mapping to look at."""
    holders = row["holders"]
    places = [_holder_words(holder) for holder in holders[:4]]
    more = f" and {len(holders) - 4} more" if len(holders) > 4 else ""
    zero = "zero-filled: " if row["zero"] else ""
    example = f"pid {row['pid']} {printable(row['label'])} at {row['address']:#x}"
    return f"{zero}{', '.join(places)}{more}; e.g. {example}"


def _holder_words(holder: Mapping[str, Any]) -> str:
    unit = "" if holder["unit"] == "/" else f" in {holder['unit']}"
    times = f" × {count(holder['mappings'])}" if holder["mappings"] > 1 else ""
    return printable(f"{holder['comm']} {holder['label']}{unit}") + times


def excluded_section(excluded: pd.DataFrame, page_bytes: int) -> Section:
    """The VMAs of ``excluded`` (excluded_by, vmas, anonymous_pages)."""
    total = int(excluded["anonymous_pages"].sum())
    amount = human_bytes(total * page_bytes)
    columns = [
        Column("because of", "excluded_by"),
        pages("VMAs", "vmas"),
        pages("anonymous pages", "anonymous_pages"),
    ]
    note = f"{plural(total, 'anonymous page')} ({amount}) lie in them." if total else ""
    return Section("VMAs that take no part", excluded, columns, note=note)

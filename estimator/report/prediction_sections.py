"""The parts of a report, as data: text, HTML and notebook show the same ones."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.advice.verdict import Savings, savings
from estimator.ksm.coverage import Coverage
from estimator.ksm.prediction import Prediction
from estimator.report import words
from estimator.report.asked import what_procfs_can_not_know
from estimator.report.summary import Summary, counters_beside_now, summarize
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
    """All of ``prediction``: the verdict, counters, savings, coverage, contributors ..."""
    verdict, *counters = counter_sections(snapshot, prediction)
    return [verdict, *counters, *_story(snapshot, prediction)]


def counter_sections(snapshot: Snapshot, prediction: Prediction) -> list[Section]:
    """What ksmd would show: the verdict, counters, savings, coverage."""
    saved = savings(snapshot, prediction)
    return [
        *_head(snapshot, prediction, saved),
        _counters(snapshot, prediction),
        _savings(saved),
        coverage_section(prediction.coverage, page_bytes(snapshot)),
    ]


def story_sections(snapshot: Snapshot, prediction: Prediction) -> list[Section]:
    """Who brings what: the verdict, contributors, duplicated contents, what takes no part."""
    saved = savings(snapshot, prediction)
    return [*_head(snapshot, prediction, saved), *_story(snapshot, prediction)]


def _head(snapshot: Snapshot, prediction: Prediction, saved: Savings) -> list[Section]:
    size = page_bytes(snapshot)
    verdict = Section(
        words.verdict(prediction.policy, saved, prediction.coverage),
        note=words.coverage_words(prediction.coverage, size),
    )
    return [verdict, *doubts(prediction.warnings, snapshot)]


def doubts(warnings: list[str], snapshot: Snapshot) -> list[Section]:
    """What to know before trusting the numbers, and what /proc leaves open; as far as there is."""
    found = [
        Section(WARNINGS, bullets=warnings),
        Section("What --procfs can't know", bullets=what_procfs_can_not_know(snapshot.info)),
    ]
    return [section for section in found if section.bullets]


def _story(snapshot: Snapshot, prediction: Prediction) -> list[Section]:
    summary = summarize(snapshot, prediction)
    sections = _contributors(summary)
    if len(summary.contents):
        sections.append(_contents(summary))
    if len(prediction.excluded):
        sections.append(excluded_section(prediction.excluded, summary.page_bytes))
    return sections


def _counters(snapshot: Snapshot, prediction: Prediction) -> Section:
    rows = counters_beside_now(snapshot, prediction)
    size = page_bytes(snapshot)
    unit = {"general_profit": 1, "stable_node_chains": math.nan, "stable_node_dups": math.nan}
    rows["memory"] = rows["predicted"] * [unit.get(n, size) for n in rows["counter"]]
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


def _savings(s: Savings) -> Section:
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
    program = [Column("program", "comm"), processes]
    process = [
        Column("pid", "pid", str, number=True),
        Column("comm", "comm"),
        Column("unit", "unit", wide=True),
        Column("uid", "uid", str, number=True, wide=True),
    ]
    name = [Column("VMA", "label"), Column("comm", "comm"), processes]
    return [
        Section("Who contributes: services and cgroups", summary.units, unit + amounts, limit=10),
        Section("Who contributes: programs", summary.programs, program + amounts, limit=10),
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
        pages("copies of each", "copies"),
        memory("frees", "saved_pages", summary.page_bytes),
        Column("where", "where"),
    ]
    return Section("Most duplicated contents", rows, columns)


def content_words(row: Mapping[Hashable, Any]) -> str:
    """Where the copies of a row of ``top_contents`` are, and one of them to look at."""
    places = [printable(place) for place in row["places"]]
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    zero = "zero-filled: " if row["zero"] else ""
    example = f"pid {row['pid']} {printable(row['name'])} at {row['address']:#x}"
    return f"{zero}{', '.join(places[:4])}{more}; e.g. {example}"


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

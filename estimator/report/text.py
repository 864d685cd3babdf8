"""The report of one prediction as text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from rich.console import Console

from estimator.ksm.prediction import Prediction
from estimator.report import words
from estimator.report.layout import Column, bullets, heading, memory, pages, prose, table
from estimator.report.summary import Summary, summarize
from estimator.report.units import count, human_bytes, plural, printable
from estimator.snapshot import Snapshot


def render(snapshot: Snapshot, prediction: Prediction, console: Console) -> None:
    """Print the report of ``prediction`` on ``console``: verdict first, details after."""
    summary = summarize(snapshot, prediction)
    prose(console, words.verdict(prediction.policy, summary.savings), style="bold")
    prose(console, f"{words.coverage_words(summary.coverage)} {words.UPPER_BOUND}")
    _counters(console, prediction, summary)
    _savings(console, summary)
    _coverage(console, summary)
    _contributors(console, summary)
    _contents(console, summary)
    _excluded(console, summary)
    if prediction.warnings:
        heading(console, "Warnings")
        bullets(console, prediction.warnings, style="yellow")


def _counters(console: Console, prediction: Prediction, summary: Summary) -> None:
    heading(console, "Counters of /sys/kernel/mm/ksm at rest")
    rows = summary.counters.copy()
    unit = [1 if name == "general_profit" else summary.page_bytes for name in rows["counter"]]
    rows["memory"] = rows["predicted"] * unit
    columns = [Column("counter", "counter"), pages("predicted", "predicted")]
    if rows["now"].fillna(0).any():
        columns.append(Column("now", "now", lambda n: "-" if pd.isna(n) else count(n), number=True))
    columns += [memory("memory", "memory"), Column("meaning", "meaning")]
    table(console, rows, columns)
    if summary.smart_scan:
        prose(console, words.smart_scan_words(prediction.counters))


def _savings(console: Console, summary: Summary) -> None:
    heading(console, "Two savings")
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
    table(console, rows, [Column("", "what"), memory("", "bytes"), Column("", "meaning")])
    prose(console, words.why_they_differ(s))


def _coverage(console: Console, summary: Summary) -> None:
    heading(console, "Coverage")
    c = summary.coverage
    rows = [("visited by ksmd, content known", c.hashed_pages)]
    rows += [(f"visited, not known: {reason}", n) for reason, n in c.unknown.items()]
    rows += [(f"not visited now: {reason}", n) for reason, n in c.aside.items()]
    frame = pd.DataFrame(rows, columns=["what", "pages"])
    columns = [
        Column("", "what"),
        pages("pages", "pages"),
        memory("memory", "pages", summary.page_bytes),
    ]
    table(console, frame, columns)


def _cost_and_gain(page_bytes: int) -> list[Column]:
    return [
        memory("scanned", "ksm_rmap_items", page_bytes),
        memory("merged", "ksm_merging_pages", page_bytes),
        pages("zero pages", "ksm_zero_pages", wide=True),
        pages("not read", "unknown_pages", wide=True),
        memory("frees", "saved_pages", page_bytes),
        memory("net", "profit_bytes"),
    ]


def _contributors(console: Console, summary: Summary) -> None:
    amounts = _cost_and_gain(summary.page_bytes)
    processes = pages("processes", "processes")
    heading(console, "Who contributes: services and cgroups")
    names = [Column("unit", "unit"), Column("cgroup", "cgroup", wide=True), processes]
    table(console, summary.units, names + amounts, limit=10)
    heading(console, "Who contributes: processes")
    pid = Column("pid", "pid", str, number=True)
    uid = Column("uid", "uid", str, number=True, wide=True)
    names = [pid, Column("comm", "comm"), Column("unit", "unit", wide=True), uid]
    table(console, summary.processes, names + amounts)
    heading(console, "Who contributes: VMAs by name")
    names = [Column("VMA", "name", vma_name), Column("comm", "comm"), processes]
    table(console, summary.vma_names, names + amounts)
    prose(console, words.self_words(summary.between_processes))


def vma_name(name: str) -> str:
    """The name of a VMA as shown; the nameless ones are anonymous mmaps."""
    return printable(name) if name else "(anonymous)"


def _contents(console: Console, summary: Summary) -> None:
    if summary.contents.empty:
        return
    heading(console, "Most duplicated contents")
    rows = summary.contents.copy()
    rows["where"] = [content_words(row) for row in rows.to_dict("records")]
    columns = [
        pages("contents", "contents"),
        pages("copies of each", "copies"),
        memory("frees", "saved_pages", summary.page_bytes),
        Column("where", "where"),
    ]
    table(console, rows, columns)


def content_words(row: Mapping[Hashable, Any]) -> str:
    """Where the copies of a row of ``top_contents`` are, and one of them to look at."""
    places = [printable(place) for place in row["places"]]
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    zero = "zero-filled: " if row["zero"] else ""
    example = f"pid {row['pid']} {vma_name(row['name'])} at {row['address']:#x}"
    return f"{zero}{', '.join(places[:4])}{more}; e.g. {example}"


def _excluded(console: Console, summary: Summary) -> None:
    if summary.excluded.empty:
        return
    heading(console, "VMAs that KSM never touches")
    pages_of = summary.excluded["anonymous_pages"].sum()
    table(
        console,
        summary.excluded,
        [
            Column("because of", "excluded_by"),
            pages("VMAs", "vmas"),
            pages("anonymous pages", "anonymous_pages"),
        ],
    )
    if pages_of:
        memory_of = human_bytes(pages_of * summary.page_bytes)
        prose(console, f"{plural(pages_of, 'anonymous page')} ({memory_of}) lie in them.")

"""The parts of a report, as data: text, HTML and notebook show the same ones."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.advice.reasons import off_now, reasons
from estimator.advice.verdict import Savings, savings
from estimator.arrays import pieces
from estimator.ksm.coverage import Coverage
from estimator.ksm.prediction import Outcome, Prediction
from estimator.report import words
from estimator.report.asked import what_procfs_can_not_know
from estimator.report.summary import Summary, counters_beside_now, summarize
from estimator.report.tables import Column, memory, pages
from estimator.snapshot.snapshot import Snapshot
from estimator.units import count, human_bytes, plural, printable

WARNINGS = "Before you trust these numbers"
_NOBODY = (
    "Zero-filled pages that go to the zero page, and pieces of huge pages that nobody maps, need "
    "no partner. "
)


@dataclass(frozen=True)
class Section:
    """One part of a report: a title, then any of table, bullets, paragraph and lines to copy.

    ``limit``: how many rows of the table a terminal shows. ``total``: by source of a column, what
    the last line says of all rows; None: there is no sum of them. ``early``: in a page it comes
    before the pictures.
    """

    title: str
    rows: pd.DataFrame | None = None
    columns: list[Column] = field(default_factory=list)
    limit: int = 15
    total: Mapping[str, Any] | None = None
    bullets: list[str] = field(default_factory=list)
    note: str = ""
    commands: str = ""
    early: bool = False


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
        _ledger(prediction, saved, page_bytes(snapshot)),
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
    off, little = off_now(snapshot, prediction, saved), reasons(snapshot, prediction, saved)
    title = "Why so little" if little else "Why nothing is merged yet"
    return [
        verdict,
        *([Section(title, bullets=off + little, early=True)] if off or little else []),
        *doubts(prediction.warnings, snapshot),
    ]


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
        sections += [_pairs(summary), _contents(summary)]
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


def _ledger(prediction: Prediction, saved: Savings, size: int) -> Section:
    """The frames of the first sentence, the mappings that ksmd visits, the records it keeps."""
    counters = prediction.counters
    outcomes = np.zeros(len(Outcome), np.int64)
    for piece in pieces(len(prediction.outcome)):
        outcomes += np.bincount(prediction.outcome[piece], minlength=len(Outcome))
    rows = [
        ("frames of anonymous memory, mapped by whomever", saved.anonymous_bytes // size),
        ("mappings of them that ksmd visits in a full scan", saved.scanned_pages),
        ("less: content not known", -outcomes[Outcome.UNKNOWN]),
        ("less: zero-filled, gone with the split of a huge page", -outcomes[Outcome.SPLIT_AWAY]),
        ("less: replaced by the zero page", -outcomes[Outcome.ZERO_PAGE]),
        ("rmap_items: mappings that ksmd keeps a record of", counters["ksm_rmap_items"]),
        ("frames that become free", prediction.physical["frames_freed"]),
    ]
    kept = [row for row in rows if row[1] or not row[0].startswith("less")]
    table = pd.DataFrame(kept, columns=["what", "pages"])
    columns = [Column("", "what"), pages("number", "pages"), memory("memory", "pages", size)]
    note = (
        "fork lets several mappings share a frame, so there can be more mappings than frames; what "
        "takes no part has frames and no such mapping."
    )
    return Section("Frames, mappings, rmap_items", table, columns, note=note)


def coverage_section(c: Coverage, page_bytes: int) -> Section:
    """What of the candidates was read, and why the rest was not."""
    rows = [("visited by ksmd, content known", c.hashed_pages)]
    rows += [
        (f"visited, not known: {reason.replace('_', ' ')}", n)
        for reason, n in c.unknown_by_reason.items()
    ]
    lost = [
        ("not known: page table not readable, or changing", c.page_table_missing_pages),
        ("not known: the kernel counts it, no process was found to map it", c.lost_pages),
    ]
    rows += [(what, n) for what, n in lost if n]
    elsewhere = [("swapped out", c.swap_pages)]
    elsewhere += [("migrating, poisoned or on a device", c.nonpresent_pages)]
    absent = [f"{plural(n, 'page')} {why}" for why, n in elsewhere if n]
    columns = [
        Column("", "what"),
        pages("mappings", "pages"),
        memory("memory", "pages", page_bytes),
    ]
    return Section(
        "Coverage",
        pd.DataFrame(rows, columns=["what", "pages"]),
        columns,
        total={"pages": c.pages},
        note=f"Not visited now, and not in these: {', '.join(absent)}." if absent else "",
    )


def _contributors(summary: Summary) -> list[Section]:
    size = summary.page_bytes
    amounts = [
        memory("scanned", "scanned_pages", size),
        memory("merged", "ksm_merging_pages", size),
        pages("rmap_items", "ksm_rmap_items", wide=True),
        pages("zero pages", "ksm_zero_pages", wide=True),
        pages("not read", "unknown_pages", wide=True),
        memory("frees", "saved_pages", size),
        memory("net", "net_bytes"),
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
    total = summary.total
    units, vma_names = summary.units, summary.vma_names
    return [
        Section("Who contributes: services and cgroups", units, unit + amounts, 10, total),
        Section("Who contributes: programs", summary.programs, program + amounts, 10, total),
        Section("Who contributes: processes", summary.processes, process + amounts, total=total),
        Section(
            "Who contributes: VMAs by name",
            vma_names,
            name + amounts,
            total=total,
        ),
    ]


def _pairs(summary: Summary) -> Section:
    """The pairs of programs; what needs no partner is one side alone."""
    pairs = summary.pairs
    nobody = pairs["comm_b"].isna()
    several = pairs["unit_a"].nunique() > 1
    rows = pairs.assign(
        one=_owner_words(pairs, "a", several),
        other=_owner_words(pairs, "b", several).where(
            pairs["comm_a"].ne(pairs["comm_b"]) | pairs["unit_a"].ne(pairs["unit_b"]), "itself"
        ),
    )
    rows.loc[nobody, "other"] = "nobody"
    saved = memory("frees", "saved_pages", summary.page_bytes)
    columns = [Column("one", "one"), Column("with", "other"), saved]
    return Section(
        "Who saves memory with whom: programs",
        rows,
        columns,
        10,
        {"saved_pages": pairs["saved_pages"].sum()},
        note=f"{_NOBODY if nobody.any() else ''}{words.self_words(summary.between_processes)}",
    )


def _owner_words(pairs: pd.DataFrame, side: str, several: bool) -> pd.Series[str]:
    comm = pairs[f"comm_{side}"]
    return comm + " in " + pairs[f"unit_{side}"] if several else comm


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
    total = {"saved_pages": summary.total["saved_pages"]}
    return Section("Most duplicated contents", rows, columns, total=total)


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
        pages("mappings", "anonymous_pages"),
    ]
    note = f"Anonymous pages in them: {plural(total, 'mapping')} ({amount}). " if total else ""
    note += "VMAs in which no page was ever written (no anon_vma) hold nothing and are left out."
    sums = {"vmas": excluded["vmas"].sum(), "anonymous_pages": total}
    return Section("VMAs that take no part", excluded, columns, total=sums, note=note)

"""An upper bound as the parts of a report: what is known of a snapshot without page contents."""

from __future__ import annotations

from typing import Any

import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.advice.schedule import scan_time_now
from estimator.ksm.upper_bound import UpperBound
from estimator.releases import better_dump
from estimator.report.prediction_sections import (
    Section,
    coverage_section,
    doubts,
    excluded_section,
)
from estimator.report.tables import Column, memory, pages
from estimator.report.words import COUNTER_MEANINGS, scope_words
from estimator.snapshot.flags import Unknown
from estimator.snapshot.names import unit_of
from estimator.snapshot.snapshot import Snapshot
from estimator.units import count, human_bytes, human_seconds, plural

NOT_KNOWN = "?"


def bound_sections(snapshot: Snapshot, bound: UpperBound) -> list[Section]:
    """The report of ``bound``: the bound, who takes part, what a scan costs, how it comes about."""
    size = page_bytes(snapshot)
    sections = [
        Section(headline(snapshot, bound), note=_how_to_know(snapshot)),
        *doubts(bound.warnings, snapshot),
        _opt_ins(bound),
        _scan(snapshot, bound),
        _ledger(bound, size),
        _counters(bound),
        coverage_section(bound.coverage, size),
        *_owners(bound, size),
    ]
    if len(bound.excluded):
        sections.append(excluded_section(bound.excluded, size))
    return sections


def headline(snapshot: Snapshot, bound: UpperBound) -> str:
    """The bound, and that it is no prediction."""
    who = scope_words(bound.policy)
    if not bound.coverage.pages:
        return f"{who}, ksmd finds nothing to scan."
    size, unknown = page_bytes(snapshot), snapshot.info["unknown"]
    missing = bound.ledger.not_found_pages * size
    also = f" that was found, and {human_bytes(missing)} that was not" if missing else ""
    some = not missing and (unknown.get("processes") or unknown.get("vmas"))
    found = " of what was found" if some else ""
    return (
        f"{who}, what KSM would save is not known: page contents were left out. Whatever is in "
        f"the pages{found}, it can free no more than {human_bytes(bound.bytes_freed)} of "
        f"{human_bytes(bound.frames_before * size)} of anonymous memory{also}."
    )


def _how_to_know(snapshot: Snapshot) -> str:
    words = (
        "That is a bound, not a prediction: it is reached only if all pages that could merge are "
        "equal. Real memory is far from it. For a prediction, collect without --without-contents"
    )
    left_out = (snapshot.frames["unknown"] == Unknown.EXCLUDED).any()
    if snapshot.info["source"].get("kind") != "core" or not left_out:
        return f"{words}."
    return f"{words}; for a dump with user pages, {better_dump(snapshot.info['kernel']['release'])}"


def _opt_ins(bound: UpperBound) -> Section:
    processes, vmas = bound.processes, bound.vmas
    rows = [
        ("processes", len(processes), int(processes["opted_in"].sum())),
        ("VMAs", len(vmas), int(vmas["mergeable"].sum())),
    ]
    taking_part = [
        int((processes["candidate_vmas"] > 0).sum()),
        int(processes["candidate_vmas"].sum()),
    ]
    table = pd.DataFrame(rows, columns=["what", "found", "opted_in"]).assign(part=taking_part)
    columns = [
        Column("", "what"),
        pages("found", "found"),
        pages("opted in now", "opted_in"),
        pages("would take part", "part"),
    ]
    return Section("Who takes part", table, columns)


def _scan(snapshot: Snapshot, bound: UpperBound) -> Section:
    found = bound.coverage.candidate_pages
    scan = scan_time_now(snapshot, found)
    rows = [f"{plural(found, 'page')} to visit in a full scan, before anything has merged."]
    if scan is not None:
        rows.append(
            f"As set now: {plural(scan.batches, 'batch')} of {count(scan.pages_to_scan)} pages; "
            f"ksmd sleeps {human_seconds(scan.seconds)} between them in all. The CPU time comes on "
            "top."
        )
    records = human_bytes(bound.rmap_items_bytes)
    rows.append(f"KSM's records of these pages take {records}, which comes off the saving.")
    return Section("What a full scan costs", bullets=rows)


def _ledger(bound: UpperBound, size: int) -> Section:
    ledger = bound.ledger
    frames = ledger.candidate_pages - ledger.further_pages
    rows = [
        ("pages that ksmd would visit", ledger.candidate_pages),
        ("less: mapped by fork once more, the frame is there once", -ledger.further_pages),
        ("distinct frames", frames),
        ("less: merged already", -ledger.ksm_frames),
        ("less: pinned, or else never to be merged", -ledger.pinned_frames),
        ("less: others map it too, that take no part", -ledger.kept_frames),
        ("plus: pieces that the split of a huge page can give back", ledger.split_frames),
        ("plus: not found, as if each had a frame of its own", ledger.not_found_pages),
        ("less: frames that hold what merged, the fewest possible", -ledger.merged_frames),
        ("can become free at the very most", ledger.frames_freed),
    ]
    kept = [row for row in rows if row[1] or not row[0].startswith(("less", "plus"))]
    table = pd.DataFrame(kept, columns=["what", "pages"])
    columns = [Column("", "what"), pages("pages", "pages"), memory("memory", "pages", size)]
    return Section("From the pages to the bound", table, columns)


def _counters(bound: UpperBound) -> Section:
    coverage = bound.coverage
    most = {
        "pages_sharing": coverage.pages_sharing_at_most,
        "ksm_rmap_items": coverage.pages,
    }
    rows = pd.DataFrame(
        [
            (name, NOT_KNOWN, count(most[name]) if name in most else NOT_KNOWN, meaning)
            for name, meaning in COUNTER_MEANINGS.items()
        ],
        columns=["counter", "predicted", "most", "meaning"],
    )
    columns = [
        Column("counter", "counter"),
        Column("predicted", "predicted"),
        Column("at most", "most"),
        Column("meaning", "meaning"),
    ]
    return Section("Counters of /sys/kernel/mm/ksm at rest: not known", rows, columns)


def _owners(bound: UpperBound, size: int) -> list[Section]:
    amounts = [
        memory("to scan", "candidate_pages", size),
        memory("shared by fork", "fork_shared_pages", size),
        memory("swapped out", "swap_pages", size),
        memory("zero page", "zero_pages", size, wide=True),
    ]
    cgroups = bound.cgroups.assign(unit=[unit_of(name) for name in bound.cgroups["cgroup"]])
    opted_in = Column("opted in", "opted_in", _yes_or_no)
    process = [Column("pid", "pid", str, number=True), Column("comm", "comm"), opted_in]
    unit = [Column("unit", "unit"), Column("cgroup", "cgroup", wide=True)]
    total = {column.source: bound.processes[column.source].sum() for column in amounts}
    return [
        Section("To scan: services and cgroups", _by_size(cgroups), unit + amounts, 10, total),
        Section("To scan: processes", _by_size(bound.processes), process + amounts, total=total),
    ]


def _yes_or_no(yes: Any) -> str:
    return "yes" if yes else "no"


def _by_size(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("candidate_pages", ascending=False, kind="stable", ignore_index=True)

"""``check --page-cost``: what a page costs ksmd on this machine, for ``forecast``, ``advise``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from estimator.advice.cost_terms import CostTerms
from estimator.advice.page_cost import cost_by_terms, measured_cost
from estimator.collect.findings import Findings
from estimator.collect.page_cost import Measured, measure
from estimator.errors import CannotAnswerError
from estimator.procfs.ksm_counters import ksmd_cpu_seconds

_SUBJECT = "page cost"
_SOURCES = {
    "visit": "found by move_pages(2), and a cold line as its rmap_item is",
    "checksum": "xxh64 of a cold page",
    "compare": "one level of a search in sorted pages",
    "lookup": "a page on such a way found by move_pages(2)",
    "merge": "compared in full, unmapped, flushed and freed by MADV_DONTNEED",
    "split": "a huge page split by MADV_COLD",
    "wake": "longer in all after a sleep, with cold caches",
    "tick": "the kernel's timer",
}


def add_page_cost(findings: Findings, root: Path = Path("/")) -> None:
    """Note what ksmd itself took for a page, if it has run since boot, and what user space does."""
    cpu_seconds, scanned = ksmd_cpu_seconds(root), _pages_scanned(root)
    cost = None
    if cpu_seconds is not None and scanned is not None:
        cost = measured_cost(cpu_seconds, scanned)
    if cost:
        findings.add(
            _SUBJECT,
            f"{1e6 * cost.seconds:.3g} µs of ksmd itself, {cost.source}, whatever it did with "
            "them; snapshots have this figure, and advise and forecast take it if none is given",
            ksmd_seconds=cost.seconds,
        )
    else:
        findings.add(_SUBJECT, "ksmd itself has scanned too little since boot to tell")
    try:
        found = measure()
    except CannotAnswerError as error:
        findings.add(_SUBJECT, f"not measured: {error.message}", status="warn")
    else:
        _add_terms(findings, found)


def terms_of(found: Measured) -> CostTerms:
    """ksmd's steps by those of user space that are like them."""
    return CostTerms(
        visit_seconds=found.walk_seconds + found.compare_seconds,
        checksum_seconds=found.hash_seconds,
        compare_seconds=found.compare_seconds,
        lookup_seconds=found.lookup_seconds,
        merge_seconds=found.equal_seconds + found.change_seconds,
        split_seconds=found.split_seconds,
        wake_seconds=found.wake_seconds,
        tick_seconds=found.tick_seconds,
    )


def _add_terms(findings: Findings, found: Measured) -> None:
    terms = terms_of(found)
    named = {
        name.removesuffix("_seconds"): f"{float(f'{1e6 * seconds:.3g}'):g}"
        for name, seconds in asdict(terms).items()
        if seconds is not None
    }
    for name, micro in named.items():
        findings.add(_SUBJECT, f"{name} {micro} µs: {_SOURCES[name]}")
    alone = cost_by_terms(terms, "measured").seconds
    findings.add(
        _SUBJECT,
        f"in user space, on {found.pages:,} cold pages; one that stays alone among a million then "
        f"costs about {1e6 * alone:.2g} µs a scan, one that is merged {named['visit']} µs",
        hint="forecast --page-cost " + ",".join(f"{name}={micro}" for name, micro in named.items()),
        **vars(found),
    )


def _pages_scanned(root: Path) -> int | None:
    """Since boot; None before 6.6, and where there is no KSM."""
    try:
        return int((root / "sys/kernel/mm/ksm/pages_scanned").read_text())
    except (OSError, ValueError):
        return None

"""``check --page-cost``: what a page costs ksmd on this machine, for ``advise``."""

from __future__ import annotations

from pathlib import Path

from estimator.advice.page_cost import measured_cost
from estimator.collect.findings import Findings
from estimator.collect.page_cost import measure
from estimator.errors import CannotAnswerError
from estimator.procfs.ksm_counters import ksmd_cpu_seconds

_SUBJECT = "page cost"


def add_page_cost(findings: Findings, root: Path = Path("/")) -> None:
    """Note what user space takes for a page, and ksmd itself, if it has run since boot."""
    cpu_seconds, scanned = ksmd_cpu_seconds(root), _pages_scanned(root)
    cost = None
    if cpu_seconds is not None and scanned is not None:
        cost = measured_cost(cpu_seconds, scanned)
    try:
        found = measure()
    except CannotAnswerError as error:
        findings.add(_SUBJECT, f"not measured: {error.message}", status="warn")
    else:
        micro = {name: f"{1e6 * seconds:.2g} µs" for name, seconds in vars(found).items()}
        estimate = 1e6 * found.visit_seconds
        findings.add(
            _SUBJECT,
            f"about {estimate:.2g} µs: hashing {micro['hash_seconds']}, and {found.tree_depth} "
            f"comparisons on the way down a tree of {found.pages:,} pages, "
            f"{micro['differ_seconds']} each, in user space on cold memory (reading a page "
            f"{micro['read_seconds']}, comparing equal ones {micro['equal_seconds']})",
            hint=None if cost else f"advise --page-cost {estimate:.2g}",
            **vars(found),
            visit_seconds=found.visit_seconds,
        )
    if not cost:
        findings.add(_SUBJECT, "ksmd itself has scanned too little since boot to tell")
        return
    findings.add(
        _SUBJECT,
        f"{1e6 * cost.seconds:.3g} µs of ksmd itself, {cost.source}; snapshots have this figure, "
        "and advise takes it",
        ksmd_seconds=cost.seconds,
    )


def _pages_scanned(root: Path) -> int | None:
    """Since boot; None before 6.6, and where there is no KSM."""
    try:
        return int((root / "sys/kernel/mm/ksm/pages_scanned").read_text())
    except (OSError, ValueError):
        return None

"""Prediction against truth: every number in which the two differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from estimator.ksm.prediction import Prediction
from estimator.snapshot import Snapshot
from tests.lab.truth import State

COUNTERS = (
    *("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"),
    *("stable_node_chains", "stable_node_dups", "ksm_zero_pages", "general_profit"),
)
PROCESS_COUNTERS = ("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
KB_PER_PAGE = 4

Differences = dict[str, tuple[int, int]]  # what -> predicted, true


def differences(prediction: Prediction, truth: State, snapshot: Snapshot) -> Differences:
    """Global and per-process counters that differ, as far as the kernel has them.

    With smart_scan a page that merges with nothing counts as unshared or volatile, depending on
    the scan: then the sum of the two is compared.
    """
    predicted = dict(prediction.counters)
    true: dict[str, int] = {"ksm_rmap_items": truth.ksm_rmap_items}
    for name in COUNTERS:
        value = truth.counter(name)
        if value is not None:
            true[name] = value
    if truth.counter("smart_scan"):
        for counters in (predicted, true):
            unshared = counters.pop("pages_unshared")
            counters["unmerged"] = unshared + counters.pop("pages_volatile")
    found = {name: (predicted[name], value) for name, value in true.items()}
    owners = _owners(snapshot)
    rows = {int(row["pid"]): row for row in prediction.processes.to_dict("records")}
    for process in truth.processes:
        row = rows.get(owners.get(process["pid"], -1), {})
        for name, value in process_counters(process).items():
            what = f"{name} of {process['pid']} ({process['comm']})"
            found[what] = (int(row.get(name, 0)), value)
    return _unequal(found)


def process_counters(process: Mapping[str, Any]) -> dict[str, int]:
    """The counters of one process, as far as the kernel has them."""
    known = process["ksm_stat"] | {"ksm_merging_pages": process["ksm_merging_pages"]}
    return {name: known[name] for name in PROCESS_COUNTERS if name in known}


def vma_differences(prediction: Prediction, truth: State, snapshot: Snapshot) -> Differences:
    """VMAs whose merged pages are not what smaps says in its ``KSM:`` line (kernels from 6.7)."""
    owners = _owners(snapshot)
    predicted = {
        (int(row["pid"]), int(row["start"])): int(row["ksm_merging_pages"])
        for row in prediction.vmas.to_dict("records")
    }
    found = {
        f"KSM: of {process['pid']} ({process['comm']}) {vma['start']:#x} {vma['name']}": (
            predicted.get((owners.get(process["pid"], -1), vma["start"]), 0),
            vma["ksm_kb"] // KB_PER_PAGE,
        )
        for process in truth.processes
        for vma in process["vmas"]
        if "ksm_kb" in vma
    }
    return _unequal(found)


def _owners(snapshot: Snapshot) -> dict[int, int]:
    """Under which pid the snapshot has the mm of each process (CLONE_VM: one for several)."""
    owners: dict[int, int] = {}
    for pid, sharing in snapshot.processes[["pid", "sharing_pids"]].itertuples(index=False):
        owners |= {int(other): int(pid) for other in (pid, *sharing)}
    return owners


def _unequal(found: Differences) -> Differences:
    return {what: pair for what, pair in found.items() if pair[0] != pair[1]}

"""Prediction against truth: every number in which the two differ."""

from __future__ import annotations

from typing import Any

from estimator.ksm.prediction import Prediction
from tests.lab.truth import State

COUNTERS = (
    *("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"),
    *("stable_node_chains", "stable_node_dups", "ksm_zero_pages", "general_profit"),
)
PROCESS_COUNTERS = ("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
KB_PER_PAGE = 4

Differences = dict[str, tuple[int, int]]  # what -> predicted, true


def differences(prediction: Prediction, truth: State, *, smart_scan: bool = False) -> Differences:
    """Global and per-process counters that differ; those that the kernel does not have are left out.

    With ``smart_scan`` a page that merges with nothing counts as unshared or volatile, depending
    on the scan: then the sum of the two is compared.
    """
    predicted = dict(prediction.counters)
    true: dict[str, int] = {"ksm_rmap_items": truth.ksm_rmap_items}
    for name in COUNTERS:
        value = truth.counter(name)
        if value is not None:
            true[name] = value
    if smart_scan:
        for counters in (predicted, true):
            unshared = counters.pop("pages_unshared")
            counters["unmerged"] = unshared + counters.pop("pages_volatile")
    found = {name: (predicted[name], value) for name, value in true.items()}
    for row in prediction.processes.itertuples():
        process = truth.by_pid.get(int(row.pid))
        if process is None:  # ended since the dump: a shell command of the lab
            continue
        for name, value in process_counters(process).items():
            found[f"{name} of {row.pid} ({row.comm})"] = (int(getattr(row, name)), value)
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def process_counters(process: dict[str, Any]) -> dict[str, int]:
    """The counters of one process, as far as the kernel has them."""
    known = process["ksm_stat"] | {"ksm_merging_pages": process["ksm_merging_pages"]}
    return {name: known[name] for name in PROCESS_COUNTERS if name in known}


def vma_differences(prediction: Prediction, truth: State) -> Differences:
    """VMAs whose merged pages are not what smaps says in its ``KSM:`` line (kernels from 6.7)."""
    predicted = {
        (int(row.pid), int(row.start)): int(row.ksm_merging_pages)
        for row in prediction.vmas.itertuples()
    }
    found = {}
    for process in truth.processes:
        for vma in process["vmas"]:
            if "ksm_kb" not in vma:
                continue
            merged = predicted.get((process["pid"], vma["start"]), 0)
            what = f"KSM: of {process['pid']} ({process['comm']}) {vma['start']:#x} {vma['name']}"
            found[what] = (merged, vma["ksm_kb"] // KB_PER_PAGE)
    return {what: pair for what, pair in found.items() if pair[0] != pair[1]}

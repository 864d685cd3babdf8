"""Prediction against truth: every number of the two, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot
from tests.lab.truth import State

COUNTERS = (
    *("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "ksm_zero_pages"),
    *("stable_node_chains", "stable_node_dups", "general_profit"),
)
PROCESS_COUNTERS = ("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")

Numbers = dict[str, tuple[int, int]]  # what -> predicted, true


def counter_numbers(prediction: Prediction, truth: State) -> Numbers:
    """The global counters, as far as the kernel has them.

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
    return {name: (predicted[name], value) for name, value in true.items()}


def process_numbers(
    prediction: Prediction,
    truth: State,
    snapshot: Snapshot,
    inherited: Mapping[int, Mapping[str, int]],
) -> Numbers:
    """The counters of all processes of the guest.

    ``inherited``: what counters of a process contain beside its own pages, by pid.
    """
    owners = _owners(snapshot)
    rows = {int(row["pid"]): row for row in prediction.processes.to_dict("records")}
    found = {}
    for process in truth.processes:
        row = rows.get(owners.get(process["pid"], -1), {})
        more = inherited.get(process["pid"], {})
        for name, value in process_counters(process).items():
            what = f"{name} of {process['pid']} ({process['comm']})"
            found[what] = (int(row.get(name, 0)) + more.get(name, 0), value)
    return found


def process_counters(process: dict[str, Any]) -> dict[str, int]:
    """The counters of one process, as far as the kernel has them."""
    known = process | process["ksm_stat"]
    return {name: known[name] for name in PROCESS_COUNTERS if name in known}


def vma_numbers(prediction: Prediction, truth: State, snapshot: Snapshot) -> Numbers:
    """KSM pages of every VMA of the guest, in smaps its ``KSM:`` line (kernels from 6.7)."""
    owners = _owners(snapshot)
    kb_per_page = snapshot.info["kernel"]["page_size"] >> 10
    predicted = {
        (int(row["pid"]), int(row["start"])): int(row["smaps_ksm_pages"])
        for row in prediction.vmas.to_dict("records")
    }
    return {
        f"KSM: of {process['pid']} ({process['comm']}) {vma['start']:#x} {vma['name']}": (
            predicted.get((owners.get(process["pid"], -1), vma["start"]), 0),
            vma["ksm_kb"] // kb_per_page,
        )
        for process in truth.processes
        for vma in process["vmas"]
        if "ksm_kb" in vma
    }


def all_numbers(prediction: Prediction, truth: State, snapshot: Snapshot) -> Numbers:
    """The counters of the system, of every process and of every VMA."""
    return (
        counter_numbers(prediction, truth)
        | process_numbers(prediction, truth, snapshot, {})
        | vma_numbers(prediction, truth, snapshot)
    )


def unequal(numbers: Numbers) -> Numbers:
    """Those in which prediction and truth differ."""
    return {what: pair for what, pair in numbers.items() if pair[0] != pair[1]}


def _owners(snapshot: Snapshot) -> dict[int, int]:
    """Under which pid the snapshot has the mm of each process (CLONE_VM: one for several)."""
    owners: dict[int, int] = {}
    for pid, sharing in snapshot.processes[["pid", "sharing_pids"]].itertuples(index=False):
        owners |= {int(other): int(pid) for other in (pid, *sharing)}
    return owners

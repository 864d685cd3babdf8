"""One workload judged: the prediction from its dump, what ksmd did, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot
from tests.lab.apt import LabError
from tests.lab.compare import (
    Numbers,
    counter_numbers,
    process_counters,
    process_numbers,
    unequal,
    vma_numbers,
)
from tests.lab.kernels import number_of
from tests.lab.truth import State, Truth
from tests.lab.workload import LabResult, Workload

# In these processes fork after ksmd has merged their pages.
FORKED_AFTER_MERGING = ("merged-then-forked", "merged-then-joined")
# Kernels whose fork does not clear the KSM counters in the copy of the mm.
COUNTERS_INHERITED = ("6.1",)


@dataclass(frozen=True)
class Verdict:
    """``counters``, ``processes``, ``vmas``: all numbers that were compared. ``notes``: what a
    reader has to know about them."""

    workload: Workload
    snapshot: Snapshot
    prediction: Prediction
    truth: Truth
    counters: Numbers
    processes: Numbers
    vmas: Numbers
    notes: tuple[str, ...]

    @cached_property
    def differences(self) -> Numbers:
        """The numbers in which prediction and truth differ."""
        return unequal(self.counters | self.processes | self.vmas)

    @property
    def compared(self) -> int:
        """How many numbers were."""
        return len(self.counters) + len(self.processes) + len(self.vmas)

    @property
    def difference(self) -> int:
        """By how much they differ in sum."""
        return sum(abs(ours - true) for ours, true in self.differences.values())

    @property
    def net_pages(self) -> tuple[int, int]:
        """Pages given back, net of what KSM allocates: predicted, and the guest's free memory."""
        size = self.page_bytes
        before, after = (
            _obtainable_pages(state, size) for state in (self.truth.before, self.truth.after)
        )
        return self.prediction.physical["net_bytes_saved"] // size, after - before

    @property
    def page_bytes(self) -> int:
        """The size of a page of the kernel."""
        return int(self.snapshot.info["kernel"]["page_size"])


def _obtainable_pages(state: State, page_bytes: int) -> int:
    """Pages that are free, or taken by what has nothing to do with KSM or with what it stores:
    inodes and dentries (the report reads all of /proc) and the unused part of slabs.

    The last is large where ksmd frees rmap_items after it has split huge pages: their slabs stay.
    """
    free = state.free_pages + state.per_cpu_free_pages
    return free + state.vmstat["nr_slab_reclaimable"] + state.slab_unused_bytes // page_bytes


def judge(result: LabResult) -> Verdict:
    """Predict from the dumps of ``result`` and compare with its truth.

    The scope is "enabled", but "all" for processes that opt in after the dump.
    """
    workload, truth = result.workload, result.truth
    notes = []
    snapshot = collect_core(result.vmcore, [result.vmlinux], seed=0)
    later = None
    if result.second_vmcore is not None:
        later = collect_core(result.second_vmcore, [result.vmlinux], seed=0)
        notes.append("predicted from two dumps, of processes that keep writing")
    policy = Policy(scope="enabled")
    if workload.after_dump is not None:
        policy = Policy(scope="all", pids=tuple(truth.actors))
        notes.append("predicted with scope all, before the processes opted in")
    prediction = predict(snapshot, policy, later=later)
    inherited: Mapping[int, Mapping[str, int]] = {}
    copied = number_of(result.kernel.series) in COUNTERS_INHERITED
    if copied and workload.name in FORKED_AFTER_MERGING:
        inherited = inherited_counters(truth)
        notes.append(
            f"{len(inherited)} children also count for ever what their parent had when it forked: "
            "this kernel's fork copies the per-process counters; compared with that added"
        )
    if workload.khugepaged:
        bounds = bound_numbers(prediction, truth)
        notes.append(_about_khugepaged(prediction, truth, [true for _, true in bounds.values()]))
        return Verdict(workload, snapshot, prediction, truth, bounds, {}, {}, tuple(notes))
    if truth.after.counter("smart_scan"):
        notes.append("smart_scan: only the sum of unshared and volatile is fixed, and compared")
    return Verdict(
        workload,
        snapshot,
        prediction,
        truth,
        counter_numbers(prediction, truth.after),
        process_numbers(prediction, truth.after, snapshot, inherited),
        vma_numbers(prediction, truth.after, snapshot),
        tuple(notes),
    )


def bound_numbers(prediction: Prediction, truth: Truth) -> Numbers:
    """pages_sharing at every stop of ksmd since it has come round: the nearest number inside the
    bounds of the prediction, and the true one."""
    bounds = prediction.khugepaged
    if bounds is None:
        raise LabError("khugepaged runs, and the prediction has no bounds")
    least, most = bounds.least_pages_sharing, bounds.most_pages_sharing
    return {
        f"pages_sharing after {state['full_scans']} scans": (
            min(max(state["pages_sharing"], least), most),
            state["pages_sharing"],
        )
        for state in truth.history[3:]
    }


def _about_khugepaged(prediction: Prediction, truth: Truth, seen: list[int]) -> str:
    collapses = truth.after.vmstat["thp_collapse_alloc"] - truth.before.vmstat["thp_collapse_alloc"]
    bounds = prediction.khugepaged
    assert bounds is not None
    if not collapses:
        raise LabError("khugepaged collapsed nothing")
    return (
        f"khugepaged ran and collapsed {collapses} blocks; pages_sharing was {min(seen):,} to "
        f"{max(seen):,} at {len(seen)} stops of ksmd, the bounds are "
        f"{bounds.least_pages_sharing:,} and {bounds.most_pages_sharing:,}, and only they are "
        "compared"
    )


def inherited_counters(truth: Truth) -> dict[int, dict[str, int]]:
    """By pid: the counters each child of an actor had copied from its parent before the dump."""
    parents = truth.before.by_pid
    return {
        process["pid"]: process_counters(parents[process["ppid"]])
        for process in truth.before.processes
        if process["ppid"] in truth.actors
    }

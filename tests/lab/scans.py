"""ksmd watched scan by scan, beside the forecast made before it ran."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from estimator.kernel.collect import collect_core
from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.lab.kernels import Kernel
from tests.lab.truth import HISTORY, State, Truth
from tests.lab.workload import WITHOUT_DAMON_STAT, LabResult, Workload, run_workload
from tests.lab.workloads import WORKLOADS

SCANS = 20
_HOUR_MILLISECONDS = 3_600_000
SERIES = ("7.3", "6.12", "6.1")
# The memory of the first changes, the second opts in after the dump, DAMON and khugepaged make what
# happens in a scan a matter of chance; of the large ones others show the same.
_LEFT_OUT = ("writers", "opt-in-after", "damon", "saving-duplicates", "saving-forked")


@dataclass(frozen=True)
class ScanVerdict:
    """The numbers of every full scan that was seen.

    ``exact`` of the ``compared`` ones were as forecast; ``bounded`` were not, but inside the bounds
    of the forecast, for the ``reasons``; ``outside``: what was not: (forecast, least, most, true).
    """

    name: str
    release: str
    smart_scan: bool
    scans: int
    compared: int
    exact: int
    bounded: int
    outside: dict[str, tuple[int, int, int, int]]
    reasons: list[str]


def cases() -> list[tuple[Workload, str]]:
    """The workloads as they are run for this, each with a kernel series."""
    chosen = [w for w in WORKLOADS if w.name not in _LEFT_OUT and not w.khugepaged]
    return [
        (in_scans(workload, smart_scan=smart_scan if series != "6.1" else None), series)
        for workload in chosen
        for series in SERIES
        if workload.runs_on(series)
        for smart_scan in ((False, True) if series != "6.1" else (False,))
    ]


def in_scans(workload: Workload, *, smart_scan: bool | None) -> Workload:
    """``workload``, watched for at least ``SCANS`` scans. None: the kernel has no smart_scan."""
    ksm = dict(workload.ksm)
    ksm.pop("smart_scan", None)
    ksm["sleep_millisecs"] = _HOUR_MILLISECONDS
    if smart_scan is not None:
        ksm["smart_scan"] = int(smart_scan)
    return replace(
        workload,
        ksm=ksm,
        min_scans=max(SCANS, workload.min_scans),
        commands=(*workload.commands, WITHOUT_DAMON_STAT),
    )


def watch(workload: Workload, kernel: Kernel, keep: Path) -> tuple[Snapshot, Truth]:
    """Run ``workload`` unless ``keep`` holds what came of it: the snapshot, and the truth."""
    truth = keep / "truth.json"
    if not truth.exists():
        keep.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="ksm-scans.") as directory:
            result: LabResult = run_workload(workload, kernel, Path(directory) / "vmcore")
            write_snapshot(collect_core(result.vmcore, [result.vmlinux], seed=0), keep / "s.ksm")
            result.truth.save(truth)
    told = json.loads(truth.read_text())
    told |= {name: State(**told[name]) for name in ("before", "after")}
    return open_snapshot(keep / "s.ksm"), Truth(**told)


def judge_scans(name: str, snapshot: Snapshot, truth: Truth) -> ScanVerdict:
    """Forecast from ``snapshot`` and compare every counter of every scan up to ``SCANS``."""
    done = int(truth.before.ksm["full_scans"])
    history = [state for state in truth.history if state["full_scans"] - done <= SCANS]
    found = forecast(snapshot, Policy(scope="enabled"), scans=SCANS)
    compared = exact = bounded = 0
    outside = {}
    for state in history:
        scan = state["full_scans"] - done
        for counter in HISTORY[1:]:
            if counter not in state:
                continue
            true = state[counter]
            if counter in ("pages_scanned", "pages_skipped"):
                true -= int(truth.before.ksm[counter])
            tables = (found.scans, found.bounds.least, found.bounds.most)
            ours, least, most = (int(table[counter].iloc[scan - 1]) for table in tables)
            compared += 1
            exact += ours == true
            bounded += ours != true and least <= true <= most
            if not least <= true <= most:
                outside[f"{counter} after scan {scan}"] = (ours, least, most, true)
    return ScanVerdict(
        name,
        truth.release,
        bool(truth.before.counter("smart_scan")),
        max((state["full_scans"] - done for state in history), default=0),
        compared,
        exact,
        bounded,
        outside,
        found.bounds.reasons,
    )

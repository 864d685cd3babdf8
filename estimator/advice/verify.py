"""Prediction beside reality: the counters of a system where KSM has been turned on since."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from estimator.advice.page_cost import PageCost, measured_cost
from estimator.errors import UsageError
from estimator.ksm.accounting import OF_ALL_ITEMS
from estimator.ksm.prediction import Prediction
from estimator.snapshot.identity import Identity
from estimator.snapshot.reality import Reality
from estimator.units import plural


@dataclass(frozen=True)
class Verification:
    """Predicted and real numbers.

    ``counters``: counter, predicted, real, difference (real - predicted; Int64, null where the
    kernel does not show it). ``processes``: pid, comm, counter, predicted, real, difference; only
    those that run under the same pid and name. ``gone``: how many predicted ones do not.
    ``caveats``: why the numbers may not be comparable yet; empty if they are. ``settled``: ksmd has
    done the scans that merging takes. ``smart_scan``: as it is set there. ``page_cost``: what a
    page costs ksmd here, None where it can't be told.
    """

    counters: pd.DataFrame
    processes: pd.DataFrame
    gone: int
    caveats: list[str]
    settled: bool
    smart_scan: bool
    page_cost: PageCost | None

    def differing(self, percent: float = 0) -> list[str]:
        """The counters that are more than ``percent`` of the prediction away from it.

        With smart_scan only the sum of pages_unshared and pages_volatile has to fit: which of the
        two a page counts as changes from scan to scan.
        """
        known = self.counters.dropna().set_index("counter")[["predicted", "difference"]]
        pair = ["pages_unshared", "pages_volatile"]
        if self.smart_scan and set(pair) <= set(known.index):
            known.loc[" + ".join(pair)] = known.loc[pair].sum()
            known = known.drop(index=pair)
        far = known["difference"].abs() * 100 > percent * known["predicted"].abs()
        return list(known.index[far])


_PER_PROCESS = ["ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages", "ksm_process_profit"]
_SCANS_TO_SETTLE = 4  # two for the checksum, one to merge; the first may have begun before
_SETTINGS = ["max_page_sharing", "use_zero_pages", "merge_across_nodes"]


def verify(prediction: Prediction, reality: Reality) -> Verification:
    """Set ``prediction`` beside ``reality``.

    Raises UsageError where they are of two machines.
    """
    predicted = Identity.of(prediction.origin | {"kernel": prediction.kernel})
    if why := predicted.other_machine(reality.identity):
        raise UsageError(
            f"the snapshot is of another machine than this one: {why}",
            hint="run verify on the system that the snapshot was taken of",
        )
    real = dict(reality.ksm)
    if real.keys() >= {*OF_ALL_ITEMS}:
        real["ksm_rmap_items"] = sum(real[name] for name in OF_ALL_ITEMS)
    names = list(prediction.counters)
    counters = pd.DataFrame(
        {
            "counter": names,
            "predicted": pd.array([prediction.counters[name] for name in names], dtype="Int64"),
            "real": pd.array([real.get(name) for name in names], dtype="Int64"),
        }
    )
    counters["difference"] = counters["real"] - counters["predicted"]
    processes, gone = _processes(prediction, reality)
    caveats = [*_boot(predicted, reality.identity), *_caveats(prediction, reality)]
    items = processes[processes["counter"] == "ksm_rmap_items"]
    absent = int(((items["predicted"] > 0) & (items["real"] == 0)).sum())
    settled = reality.ksm.get("full_scans", 0) >= _SCANS_TO_SETTLE
    if absent and settled:
        caveats.append(
            f"{absent} of the predicted processes have no rmap_item here: not opted in; "
            "select those that are (--scope enabled, --cgroup ...)"
        )
    return Verification(
        counters,
        processes,
        gone,
        caveats,
        settled,
        bool(reality.ksm.get("smart_scan")),
        measured_page_cost(reality),
    )


def measured_page_cost(reality: Reality) -> PageCost | None:
    """CPU time of ksmd per page it scanned since boot, where both are known."""
    if reality.ksmd_cpu_seconds is None:
        return None
    return measured_cost(reality.ksmd_cpu_seconds, reality.ksm.get("pages_scanned", 0))


def _processes(prediction: Prediction, reality: Reality) -> tuple[pd.DataFrame, int]:
    running = {(process.pid, process.comm): process.ksm_stat for process in reality.processes}
    rows = []
    gone = 0
    for process in prediction.processes.to_dict("records"):
        stat = running.get((process["pid"], process["comm"]))
        if stat is None:
            gone += 1
            continue
        rows += [
            (process["pid"], process["comm"], name, int(process[name]), stat[name])
            for name in _PER_PROCESS
            if name in stat
        ]
    table = pd.DataFrame(rows, columns=["pid", "comm", "counter", "predicted", "real"])
    table["difference"] = table["real"] - table["predicted"]
    return table, gone


def _boot(predicted: Identity, real: Identity) -> list[str]:
    same = predicted.same_boot(real)
    if same:
        return []
    if same is None:
        return ["whether the snapshot is of this boot is not known: if not, all processes are new"]
    why = predicted.other_kernel(real) or "the boot-ids differ"
    return [f"the snapshot is of another boot, so of other processes and pages: {why}"]


def _caveats(prediction: Prediction, reality: Reality) -> list[str]:
    caveats = []
    ksm = reality.ksm
    if ksm.get("run") != 1:
        caveats.append(f"ksmd is not running: /sys/kernel/mm/ksm/run is {ksm.get('run', 'absent')}")
    scans = ksm.get("full_scans", 0)
    if scans < _SCANS_TO_SETTLE:
        caveats.append(
            f"{plural(scans, 'full scan')} since the last echo 2 > run, or the boot: compare after "
            f"{_SCANS_TO_SETTLE} or more (two for the checksum, one to merge; the first may have "
            "begun before)"
        )
    if ksm.get("smart_scan"):
        caveats.append("smart_scan is on: compare the sum of pages_unshared and pages_volatile")
    for name in _SETTINGS:
        predicted = getattr(prediction.policy, name)
        if predicted is not None and name in ksm and int(predicted) != ksm[name]:
            caveats.append(f"predicted with {name} {int(predicted)}, here it is {ksm[name]}")
    return caveats

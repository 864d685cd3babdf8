"""The answers on real dumps: verify beside the real ksmd, the notebook, the means of a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from estimator.advice.plan import make_plan
from estimator.advice.verify import verify
from estimator.kernel.collect import collect_core
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.procfs.ksm_counters import read_reality
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.lab.conftest import RunWorkload, again
from tests.lab.kernels import IN_FULL
from tests.lab.truth import State
from tests.lab.workload import LabResult
from tests.lab.workloads.fork_server import WORKLOADS
from tests.test_notebook import run_example

pytestmark = pytest.mark.lab


def fork_server(lab: RunWorkload, series: str) -> tuple[LabResult, Snapshot]:
    workload = next(w for w in WORKLOADS if series in w.series)
    result = lab(workload, series)
    return result, collect_core(result.vmcore, [result.vmlinux])


def opted_out(snapshot: Snapshot) -> Snapshot:
    """As if nobody had called madvise() or prctl(); what ksmd took until then, it says itself."""
    assert snapshot.info["ksm"]["ksmd_cpu_ns"] >= 0
    return replace(snapshot, vmas=snapshot.vmas.assign(mergeable=False))


def lay_out(state: State, root: Path) -> Path:
    """The files of /sys/kernel/mm/ksm and /proc as they were in the guest."""
    directory = root / "sys/kernel/mm/ksm"
    directory.mkdir(parents=True)
    for name, value in state.ksm.items():
        (directory / name).write_text(f"{value}\n")
    for process in state.processes:
        place = root / "proc" / str(process["pid"])
        place.mkdir(parents=True)
        (place / "comm").write_text(f"{process['comm']}\n")
        lines = [f"{name} {value}\n" for name, value in process["ksm_stat"].items()]
        if lines:
            (place / "ksm_stat").write_text("".join(lines))
    return root


@pytest.mark.parametrize("series", [*IN_FULL[:1], *map(again, IN_FULL[1:])])
def test_verify_finds_no_difference(series: str, shared_lab: RunWorkload, tmp_path: Path) -> None:
    result, snapshot = fork_server(shared_lab, series)
    prediction = predict(snapshot, Policy(scope="enabled"))
    found = verify(prediction, read_reality(lay_out(result.truth.after, tmp_path)))
    known = found.counters.dropna()
    assert {"pages_shared", "pages_sharing", "pages_unshared"} <= set(known["counter"])
    assert known["difference"].tolist() == [0] * len(known)
    assert len(found.processes) >= 12 or series == "5.10"  # it has no counters of processes
    assert not found.processes["difference"].any()
    assert found.gone == 0


def test_the_example_notebook(
    shared_lab: RunWorkload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, snapshot = fork_server(shared_lab, "6.12")
    write_snapshot(snapshot, tmp_path / "fork-server.ksm")
    outputs = run_example(tmp_path / "fork-server.ksm", monkeypatch)
    assert "KSM would free" in outputs[1]["data"]["text/html"]


def test_the_plan_takes_the_workers_by_the_means_of_their_kernel(shared_lab: RunWorkload) -> None:
    """In the guest they are on already; as if they were not, there is one line to do."""
    _, snapshot = fork_server(shared_lab, "6.12")
    on = make_plan(snapshot)
    assert on.to_do.empty
    assert "worker" in set(on.lines["comm"])
    plan = make_plan(opted_out(snapshot))
    assert plan.lines[["means", "comm"]].to_numpy().tolist() == [["program", "worker"]]
    saved = plan.everything.physical["bytes_saved"]
    assert plan.prediction.physical["bytes_saved"] > 0.99 * saved

    _, snapshot = fork_server(shared_lab, "6.1")
    plan = make_plan(opted_out(snapshot))
    assert set(plan.lines["means"]) == {"vma"}
    assert set(plan.lines["comm"]) == {"worker"}
    saved = plan.everything.physical["bytes_saved"]
    assert plan.prediction.physical["bytes_saved"] > 0.9 * saved

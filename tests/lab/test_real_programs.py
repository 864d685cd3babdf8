"""Real programs under systemd: read in four ways, the prediction is what ksmd does with them.

Only those that start quickly; `./scripts/proof --guest` has them all.
"""

from __future__ import annotations

import pandas as pd
import pytest

from estimator.ksm.policy import Policy, Scope
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from tests.lab.conftest import lab_kernel
from tests.lab.real_programs import PROGRAMS
from tests.lab.real_proof import Proof, prove

pytestmark = pytest.mark.lab

QUICK = [program for program in PROGRAMS if program.quick]


@pytest.fixture(scope="module")
def proof() -> Proof:
    return prove(lab_kernel("7.3"), QUICK)


def test_every_way_predicts_what_ksmd_does(proof: Proof) -> None:
    assert proof.differences() == {}


def test_the_programs_are_there_and_share(proof: Proof) -> None:
    processes = proof.snapshot.processes
    opted_in = processes[processes["merge_any"]]
    assert set(opted_in["pid"]) == set(proof.pids)
    for program in QUICK:
        alone = predict(proof.snapshot, Policy(scope="enabled", cgroups=program.cgroups(processes)))
        assert alone.counters["ksm_rmap_items"] > 0, program.name
    together = predict(proof.snapshot, Policy(scope="enabled")).counters
    assert together["pages_sharing"] > 1000
    assert together["ksm_zero_pages"] > 0


@pytest.mark.parametrize("scope", ["enabled", "all"])
def test_all_ways_predict_the_same(proof: Proof, scope: Scope) -> None:
    """Of the frozen processes: all others ran on between two readings.

    --procfs does not see the pieces of huge pages that nobody maps, and that a split frees.
    """
    found = proof.predictions(Policy(scope=scope, pids=tuple(proof.pids)))
    assert set(found) == {"core", "qemu", "live", "procfs"}
    core = found["core"]
    for way, prediction in found.items():
        assert prediction.counters == core.counters, way
        pd.testing.assert_frame_equal(_by_pid(prediction), _by_pid(core), obj=way)
        unseen = core.freed.unmapped.sum() if way == "procfs" else 0
        assert prediction.physical["frames_freed"] == core.physical["frames_freed"] - unseen, way


def _by_pid(prediction: Prediction) -> pd.DataFrame:
    columns = ["ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages", "ksm_process_profit"]
    return prediction.processes.set_index("pid")[columns].sort_index()

"""Real programs under systemd: read in four ways, the prediction is what ksmd does with them.

Only those that start quickly; `./scripts/proof --guest` has them all.
"""

from __future__ import annotations

import pandas as pd
import pytest

from estimator.ksm.policy import Policy
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
def test_all_ways_predict_the_same(proof: Proof, scope: str) -> None:
    """Of the frozen processes: all others ran on between two readings."""
    policy = Policy(scope=scope, pids=tuple(proof.pids))  # type: ignore[arg-type]
    answers = {way: _answer(found) for way, found in proof.predictions(policy).items()}
    assert len(answers) == 4
    core = answers.pop("core")
    for way, answer in answers.items():
        pd.testing.assert_frame_equal(answer, core, obj=way)


def _answer(prediction: Prediction) -> pd.DataFrame:
    """What it says of the system and of every process, one row each."""
    columns = ["ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages", "ksm_process_profit"]
    table = prediction.processes.set_index("pid")[columns].sort_index()
    counters = pd.Series(prediction.counters | prediction.physical)
    return pd.concat([table, counters.rename(0).to_frame().T])

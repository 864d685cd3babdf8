"""Real programs on this machine, and its own ksmd, where nobody else uses it."""

from __future__ import annotations

import pytest

from tests.lab.here import machine, programs
from tests.lab.here.proof import prove


@pytest.mark.lab
@pytest.mark.skipif(bool(reason := machine.refusal()), reason=str(reason))
def test_procfs_predicts_what_ksmd_does_with_real_programs() -> None:
    chosen = [p for p in (programs.gunicorn, programs.node) if not programs.missing(p)]
    assert programs.gunicorn in chosen
    before = {path: path.read_text() for path in sorted(machine.KSM.glob("*_to_scan"))}
    proof = prove(chosen, use_zero_pages=False)
    assert proof.differences == {}
    assert len(proof.numbers) > 5000
    assert proof.prediction.counters["pages_sharing"] > 10_000
    assert {path: path.read_text() for path in before} == before
    assert machine.refusal() is None

"""CPU time of ksmd as forecast from terms measured in user space, where nobody else uses KSM."""

from __future__ import annotations

import pytest

from tests.lab.here import machine
from tests.lab.here.in_time import ALLOWED, Setting, median, run

SMALL = (("alone:24", "same:32"), ("alone:24", "same:32"))


@pytest.mark.lab
@pytest.mark.skipif(bool(reason := machine.refusal()), reason=str(reason))
def test_terms_foretell_the_cpu_time_of_ksmd() -> None:
    before = machine.KSM.joinpath("pages_to_scan").read_text()
    runs = [run(Setting(5000, 20, 0), SMALL) for _ in range(2)]
    assert all(each.ksmd.cpu_seconds > 0.05 for each in runs)
    assert abs(median(runs, "cpu_seconds")) <= ALLOWED, runs
    assert machine.KSM.joinpath("pages_to_scan").read_text() == before
    assert machine.refusal() is None

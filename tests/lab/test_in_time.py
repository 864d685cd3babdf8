"""The proof in time runs here and leaves the machine as it was.

How near forecast and ksmd are is time on a shared machine: `./scripts/proof --time` measures it
and fails where it is too far; no test does.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest

from tests.lab.here import machine
from tests.lab.here.in_time import Setting, run

SMALL = (("alone:24", "same:32"), ("alone:24", "same:32"))
SETTINGS = ("run", "pages_to_scan", "sleep_millisecs", "smart_scan")


def as_set() -> list[str]:
    return [machine.KSM.joinpath(name).read_text() for name in SETTINGS]


@pytest.mark.lab
@pytest.mark.skipif(bool(reason := machine.refusal()), reason=str(reason))
def test_forecast_and_ksmd_are_timed_and_all_is_put_back() -> None:
    before = as_set()
    timed = run(Setting(5000, 20, 0), SMALL)
    assert timed.ksmd.cpu_seconds > 0.05
    assert timed.ours.cpu_seconds > 0.05
    terms = asdict(timed.terms)
    assert all(terms.pop(f"{name}_seconds") > 0 for name in ("visit", "checksum", "tick"))
    assert all(seconds is None or seconds >= 0 for seconds in terms.values())
    assert as_set() == before
    assert machine.refusal() is None

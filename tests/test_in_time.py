"""The page of `scripts/proof --time`, and what it is judged by."""

from __future__ import annotations

import pytest

from estimator.advice.cost_terms import CostTerms
from tests.lab.here.held import hold
from tests.lab.here.in_time import InTime, Run, Setting, median, page

TERMS = CostTerms(5e-7, 1e-6, 2e-7, 3e-7, 4e-6, 130e-6, 1e-3, 0.004)
SETTING, OTHER = Setting(1000, 20, 0), Setting(500, 20, 1, advisor_seconds=3)


def runs(*cpu_seconds: float, setting: Setting = SETTING) -> list[Run]:
    return [Run(setting, InTime(10.0, cpu), InTime(8.0, 2.0), 1.5, TERMS) for cpu in cpu_seconds]


def test_the_median_of_a_setting_is_judged() -> None:
    found = runs(2.1, 9.9, 1.0)
    assert median(found, "cpu_seconds") == pytest.approx(0.05)
    assert median(found, "seconds") == pytest.approx(0.25)


def test_the_page_has_a_line_for_each_run() -> None:
    text = page([*runs(2.1, 9.9, 1.0), *runs(2.0, setting=OTHER)], "abc")
    assert "| 1,000 / 20 ms, smart_scan 0 | 1.5 | 10.0 / 8.0 | +25% | 2.10 / 2.00 | +5% |" in text
    assert "| 1,000 / 20 ms, smart_scan 0 | 1.5 | 10.0 / 8.0 |  | 9.90 / 2.00 |  |" in text
    assert "| 500 / 20 ms, smart_scan 1, advisor to 3 s | 1.5 |" in text
    assert "| visit | checksum | compare | lookup | merge | split | wake | tick |" in text
    assert "| 0.5 | 1 | 0.2 | 0.3 | 4 | 130 | 1e+03 | 4e+03 |" in text
    assert "at commit abc" in text


def test_memory_that_is_held_is_equal_or_not() -> None:
    size = 2 << 20
    assert (hold("same", size, 0) == hold("same", size, 1)).all()
    assert (hold("alone", size, 0) != hold("alone", size, 1)).all()
    assert (hold("same", size, 0) != hold("alone", size, 0)).all()

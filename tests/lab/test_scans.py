"""The forecast equals the real ksmd after every full scan, or says within which bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.conftest import lab_kernel
from tests.lab.scans import SCANS, in_scans, judge_scans, watch
from tests.lab.workloads import find

pytestmark = pytest.mark.lab

CASES = [
    ("fork-outsider-last", "6.1", None),
    ("sharing-10", "6.12", True),
    ("huge-own-pair", "6.1", None),
    ("huge-four-with-zeroes", "6.12", True),
    ("huge-zeroes-use-zero", "7.3", False),
    ("pinned-orphans-smart-scan", "6.12", True),
    ("pinned-smart-scan", "7.3", True),
]


@pytest.mark.parametrize(("name", "series", "smart_scan"), CASES)
def test_every_scan(name: str, series: str, smart_scan: bool | None, tmp_path: Path) -> None:
    workload = in_scans(find(name, series), smart_scan=smart_scan)
    verdict = judge_scans(name, *watch(workload, lab_kernel(series), tmp_path / "kept"))
    assert verdict.outside == {}
    assert verdict.scans == SCANS
    assert verdict.bounded == 0 or verdict.reasons
    assert verdict.exact > 0.9 * verdict.compared

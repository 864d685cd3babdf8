"""What ``scripts/test`` tries again: a run where emulation lost guests, and nothing else failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ASK_AGAIN
from tests.lab.guest import LOST_TO_EMULATION

LOST = f"""
def test_lost():
    raise OSError("QEMU ended: {LOST_TO_EMULATION}: 0000 [#1] SMP NOPTI")
"""
WRONG = """
def test_wrong():
    assert 1 + 1 == 3
"""


@pytest.mark.parametrize(
    ("tests", "status"), [(LOST, ASK_AGAIN), (LOST + WRONG, 1), (WRONG, 1), ("", 5)]
)
@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_what_is_worth_another_try(
    tests: str, status: int, workers: list[str], tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_some.py").write_text(tests)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *workers, f"--rootdir={tmp_path}", str(tmp_path)],
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == status, run.stdout

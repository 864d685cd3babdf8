"""Snapshots are analysed without drgn, and a command imports no more than it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from estimator.snapshot.store import write_snapshot
from tests.systems import fork_server

WITHOUT = "import sys; sys.modules['drgn'] = None; sys.modules['_drgn'] = None; "


@pytest.mark.parametrize("command", ["predict", "report", "advise"])
def test_answers_need_no_drgn(command: str, tmp_path: Path) -> None:
    write_snapshot(fork_server(), tmp_path / "a.ksm")
    code = (
        f"{WITHOUT} sys.argv[1:] = [{command!r}, 'a.ksm']; from estimator.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "KSM would free" in done.stdout or "pages" in done.stdout


@pytest.mark.parametrize("module", ["estimator", "estimator.cli", "estimator.kernel.collect"])
def test_no_drgn_before_it_is_needed(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"{WITHOUT} import {module}"], check=True)


@pytest.mark.parametrize("module", ["estimator", "estimator.cli"])
def test_no_pandas_before_it_is_needed(module: str) -> None:
    code = f"import {module}, sys; assert not {{'pandas', 'pyarrow', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

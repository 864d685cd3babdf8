"""Completion of the command line by a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.cli.completion import SORT_COLUMNS
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.systems import Area, Process, system


def asked(instruction: str, words: str = "") -> str:
    environment = os.environ | {"_KSM_ESTIMATOR_COMPLETE": instruction}
    environment |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = [sys.executable, "-m", "estimator"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script(shell: str) -> None:
    assert "ksm-estimator" in asked(f"{shell}_source")


def test_commands_and_options_are_completed() -> None:
    assert asked("bash_complete", "ksm-estimator pre").split() == ["plain,predict"]
    assert "plain,--min-coverage" in asked("bash_complete", "ksm-estimator report --min").split()


def test_columns_to_sort_by_are_those_of_the_report(tmp_path: Path) -> None:
    assert asked("bash_complete", "ksm-estimator report --sort ne").split() == ["plain,net"]
    snapshot = tmp_path / "a.ksm"
    write_snapshot(system([Process("db", [Area([1, 1, 2])])] * 2), snapshot)
    told = estimator("report", snapshot, "--sort", "nothing").stderr
    titles = told.strip().partition("they have ")[2].split(", ")
    assert set(SORT_COLUMNS) < set(titles)
    assert all(estimator("report", snapshot, "--sort", c).returncode == 0 for c in SORT_COLUMNS)


def test_processes_are_those_of_the_snapshot_on_the_line(tmp_path: Path) -> None:
    snapshot = tmp_path / "a.ksm"
    names = (
        "worker",
        "web server",
        "wor\x1bk",
        "w;reboot",
        "w|sh",
        "w>x",
        "w&",
        "w(a)",
        "w*",
        "w,a",
    )
    write_snapshot(
        system([Process(n, [Area([1])], cgroup="/a.slice", pid=7) for n in names]), snapshot
    )
    line = f"ksm-estimator predict {snapshot}"
    assert asked("bash_complete", f"{line} --comm w").split() == ["plain,worker"]
    assert asked("bash_complete", f"{line} --cgroup /").split() == ["plain,/a.slice"]
    assert asked("bash_complete", f"{line} --pid 7").split() == ["plain,7"]
    assert asked("bash_complete", f"ksm-estimator predict {tmp_path} --comm w").split() == []
    assert asked("bash_complete", "ksm-estimator run --procfs --comm w").split() == []

"""Completion of the command line by a shell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


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

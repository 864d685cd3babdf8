"""What a person at a terminal gets: lines that fit, no marks of a text that is made for files."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(columns: int, *arguments: object) -> str:
    """All that the command writes on a terminal so wide, without its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "estimator", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"PAGER": "cat", "TERM": "xterm"},
    )
    os.close(theirs)
    written = b""
    while piece := _read(ours):
        written += piece
    os.close(ours)
    process.wait()
    return ESCAPES.sub("", written.decode()).replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody has it open any more
        return b""


@pytest.mark.parametrize("columns", [60, 80])
def test_failures_break_between_words_and_commands_stay_whole(columns: int, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    lines = on_a_terminal(columns, "predict", missing).splitlines()
    command = "ksm-estimator collect --core VMCORE|--procfs -o NAME.ksm"
    assert lines[-1].endswith(command)
    assert len(lines) > 1
    folded = [line for line in lines if str(missing) not in line]  # a word that is too long
    assert all(len(line) <= columns for line in folded)
    words = " ".join(lines).split()
    assert (
        words == f"ksm-estimator: {missing} does not exist; make a snapshot with: {command}".split()
    )


@pytest.mark.parametrize("columns", [60, 200])
def test_the_explanations_are_no_markdown(columns: int) -> None:
    text = on_a_terminal(columns, "help", "columns")
    lines = text.splitlines()
    assert lines[0].strip() == "How to read the answers"
    assert not any(line.startswith("#") for line in lines)
    assert not any(mark in text for mark in ("`", "](", "**"))
    assert max(map(len, lines)) <= min(columns, 100)
    assert lines == [line.rstrip() for line in lines]

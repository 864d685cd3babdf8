"""Standard streams that are closed, or can't take what is written to them."""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
from typing import Any

import click

from estimator.errors import TargetError
from estimator.units import printable

_FEWEST_COLUMNS, _USUAL_COLUMNS = 40, 80
_COMMAND = re.compile(
    r"\b(?:ksm-estimator|sudo|echo|apt-get|dnf|pip|mkdir|export) (?:\$\([^)]*\)|[^;,)])+"
)
_TOGETHER = "\N{NO-BREAK SPACE}"


class _Stdout(io.FileIO):
    """Descriptor 1; a full disk or a closed stream is a failure to tell, not one of the program."""

    def write(self, data: Any, /) -> int:
        """As FileIO. Raises TargetError; a closed pipe stays BrokenPipeError."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise TargetError(f"the answer can't be written to stdout: {error.strerror}") from error


def standard_streams() -> None:
    """Make all three standard streams exist, so that no file of ours gets one of their numbers.

    A closed stdin is empty, a closed stdout refuses what is written to it, a closed stderr swallows
    it. What stdout has no letters for is written as Python writes it in a literal.
    """
    for number, way in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, way)  # gets the lowest number that is free
    terminal = os.isatty(1)
    encoding, errors = "utf-8", "backslashreplace"
    if sys.stdout is not None:
        encoding = sys.stdout.encoding
        if sys.stdout.errors not in (None, "strict"):  # nothing fails for a name or a sign
            errors = sys.stdout.errors
    buffer = io.BufferedWriter(_Stdout(1, "w", closefd=False))
    sys.stdout = io.TextIOWrapper(buffer, encoding, errors, line_buffering=terminal)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "replace")


def say(text: str) -> None:
    """One line on stderr; on a terminal as many as it takes, broken between words.

    A command to type is never broken: a terminal that is too narrow folds it, and copies it whole.
    """
    text = printable(text)
    if sys.stderr.isatty():
        told = os.get_terminal_size(sys.stderr.fileno()).columns  # 0 on a serial line
        columns = max(_FEWEST_COLUMNS, told or _USUAL_COLUMNS)
        whole = _COMMAND.sub(lambda command: command[0].replace(" ", _TOGETHER), text)
        lines = textwrap.wrap(whole, columns, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(lines).replace(_TOGETHER, " ")
    click.echo(text, err=True)

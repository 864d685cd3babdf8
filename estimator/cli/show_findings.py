"""The findings of ``check`` on stdout."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap

import click

from estimator.collect.findings import Findings
from estimator.units import printable

_STATUS_COLUMNS = 5
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def show(findings: Findings, as_json: bool) -> None:
    """A line per finding, or one JSON object."""
    if as_json:
        click.echo(json.dumps(findings.to_json()))
        return
    for finding in findings.found:
        status = click.style(f"{finding.status:<5}", fg=_COLOURS[finding.status])
        hint = f"; {finding.hint}" if finding.hint else ""
        text = printable(f"{finding.subject + ':':<12} {finding.text}{hint}")
        click.echo(status + _wrapped(text))


def _wrapped(text: str) -> str:
    """``text`` in the lines of a terminal, without its status; in a pipe it is one line."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return text
    width = max(40, shutil.get_terminal_size().columns) - _STATUS_COLUMNS
    indent = " " * (_STATUS_COLUMNS + 13)
    first, *more = textwrap.wrap(text, width, break_on_hyphens=False, subsequent_indent=" " * 13)
    return "\n".join([first, *(indent + line.strip() for line in more)])

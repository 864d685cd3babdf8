"""The findings of ``check`` on stdout."""

from __future__ import annotations

import json

import click

from estimator.collect.findings import Findings
from estimator.report.units import printable

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def show(findings: Findings, as_json: bool) -> None:
    """A line per finding, or one JSON object."""
    if as_json:
        click.echo(json.dumps(findings.to_json()))
        return
    for finding in findings.found:
        status = click.style(f"{finding.status:<5}", fg=_COLOURS[finding.status])
        hint = f"; {finding.hint}" if finding.hint else ""
        click.echo(status + printable(f"{finding.subject + ':':<12} {finding.text}{hint}"))

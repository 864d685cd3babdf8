"""``fleet trend``: one host over time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from estimator.cli.coverage import require_share
from estimator.cli.options import json_option, min_coverage_option, policy_options, top_option


@click.command()
@click.argument(
    "snapshots", nargs=-1, required=True, metavar="A B...", type=click.Path(path_type=Path)
)
@click.option("--service", metavar="NAME", help="Only this service; the whole host otherwise.")
@policy_options
@top_option
@min_coverage_option
@json_option
def trend(
    snapshots: tuple[Path, ...],
    service: str | None,
    top: int | None,
    min_coverage: float,
    as_json: bool,
    **policy: Any,
) -> None:
    """Say how the saving of one host or service went, how steady it is, and who changed."""
    from estimator.fleet.one_host import Question
    from estimator.fleet.trend import trend as find_trend
    from estimator.fleet.trend_sections import asked_of_trend, trend_json, trend_sections
    from estimator.ksm.policy import Policy
    from estimator.report.tables import make_console
    from estimator.report.text import Tables, print_sections

    found = find_trend(snapshots, Question(Policy(**policy), "unit", 150.0), service)
    if as_json:
        click.echo(json.dumps(trend_json(found)))
    else:
        tables = Tables(top, None, ": --top 0 shows all")
        console = make_console(sys.stdout)
        print_sections(trend_sections(found), console, asked_of_trend(found), tables)
    read = found.looks["read_share"].dropna()
    require_share(float(read.min()) if len(read) else None, min_coverage, " of one of them")

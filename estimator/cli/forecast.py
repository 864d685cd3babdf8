"""The command ``forecast``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from estimator.cli.coverage import require_coverage
from estimator.cli.options import min_coverage_option, policy_options


@click.command()
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option(
    "--and",
    "later",
    type=click.Path(path_type=Path),
    metavar="LATER.ksm",
    help="A second snapshot of the same system: what changed in between never merges.",
)
@policy_options
@click.option(
    "--pages-to-scan", type=click.IntRange(1), metavar="N", help="Else as in the snapshot."
)
@click.option(
    "--sleep",
    "sleep_millisecs",
    type=click.IntRange(0),
    metavar="MS",
    help="sleep_millisecs, else as there.",
)
@click.option("--smart-scan/--no-smart-scan", default=None, help="Else as there.")
@click.option(
    "--scans",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="How many full scans; else until nothing changes any more, at most 100.",
)
@click.option(
    "--page-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="MICROSECONDS",
    help="CPU time that ksmd needs per page; verify measures it on a running system.",
)
@min_coverage_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def forecast(
    snapshot: Path,
    later: Path | None,
    pages_to_scan: int | None,
    sleep_millisecs: int | None,
    smart_scan: bool | None,
    scans: int | None,
    page_cost: float | None,
    min_coverage: float,
    as_json: bool,
    **policy: Any,
) -> None:
    """Say what every full scan of ksmd brings, and when."""
    from estimator.advice.pace import pace
    from estimator.advice.page_cost import PageCost
    from estimator.ksm.forecast import forecast as foresee
    from estimator.ksm.policy import Policy
    from estimator.report.forecast_sections import forecast_json, forecast_sections
    from estimator.report.tables import make_console
    from estimator.report.text import print_sections
    from estimator.snapshot.store import open_snapshot

    opened = open_snapshot(snapshot)
    second = open_snapshot(later) if later else None
    found = foresee(opened, Policy(**policy), later=second, smart_scan=smart_scan, scans=scans)
    cost = None if page_cost is None else PageCost(page_cost / 1e6, "given")
    paced = pace(opened, found, pages_to_scan, sleep_millisecs, cost)
    if as_json:
        click.echo(json.dumps(forecast_json(found, paced)))
    else:
        print_sections(forecast_sections(found, paced), make_console(sys.stdout))
    require_coverage(found.at_rest.coverage, min_coverage)

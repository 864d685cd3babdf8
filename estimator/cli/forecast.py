"""The command ``forecast``."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estimator.cli.answers import require_coverage
from estimator.cli.duration import Duration
from estimator.cli.options import min_coverage_option, options, policy_options
from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.advice.advisor import AdvisorSettings
    from estimator.snapshot.snapshot import Snapshot

_ADVISOR_OPTIONS = {
    "target_scan_time": "--target-scan-time",
    "max_cpu": "--max-cpu",
    "min_pages_to_scan": "--min-pages",
    "max_pages_to_scan": "--max-pages",
}
_advisor_options = options(
    click.option(
        "--advisor",
        type=click.Choice(["none", "scan-time"]),
        help="Whether the kernel sets pages_to_scan itself (6.8 and newer); else as there.",
    ),
    click.option(
        "--target-scan-time", type=click.IntRange(1), metavar="SECONDS", help="Of the advisor."
    ),
    click.option("--max-cpu", type=click.IntRange(1, 100), metavar="PERCENT", help="Of it too."),
    click.option(
        "--min-pages",
        "min_pages_to_scan",
        type=click.IntRange(1),
        metavar="N",
        help="pages_to_scan with which the advisor starts.",
    ),
    click.option(
        "--max-pages",
        "max_pages_to_scan",
        type=click.IntRange(1),
        metavar="N",
        help="The most that it sets.",
    ),
)


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
    "--pages-to-scan",
    type=click.IntRange(1),
    metavar="N",
    help="Else as in the snapshot. Without --advisor, no advisor then.",
)
@click.option(
    "--sleep",
    "sleep_millisecs",
    type=click.IntRange(0),
    metavar="MS",
    help="sleep_millisecs, else as there.",
)
@_advisor_options
@click.option("--smart-scan/--no-smart-scan", default=None, help="Else as there.")
@click.option(
    "--scans",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="How many full scans; else until nothing changes any more, at most 100.",
)
@click.option(
    "--for",
    "for_seconds",
    type=Duration(),
    metavar="DURATION",
    help="How long: 90s, 10min, 1h30min; and what there is then.",
)
@click.option(
    "--page-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="MICROSECONDS",
    help="CPU time that ksmd needs per page (default: the snapshot's, else as published).",
)
@min_coverage_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def forecast(
    snapshot: Path,
    later: Path | None,
    pages_to_scan: int | None,
    sleep_millisecs: int | None,
    advisor: str | None,
    smart_scan: bool | None,
    scans: int | None,
    for_seconds: float | None,
    page_cost: float | None,
    min_coverage: float,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Say what every full scan of ksmd brings, when, and for how much of a CPU."""
    from estimator.advice.moment import until
    from estimator.advice.pace import pacing_of
    from estimator.advice.page_cost import PageCost
    from estimator.advice.page_cost import page_cost as cost_of
    from estimator.ksm.policy import Policy
    from estimator.report.forecast_sections import forecast_json, forecast_sections
    from estimator.report.tables import make_console
    from estimator.report.text import print_sections
    from estimator.snapshot.store import open_snapshot

    if scans is not None and for_seconds is not None:
        raise UsageError("--scans and --for both say where the forecast ends")
    tunables = {name: chosen.pop(name) for name in _ADVISOR_OPTIONS}
    opened = open_snapshot(snapshot)
    second = open_snapshot(later) if later else None
    advised = _advisor(opened, advisor, tunables, pages_to_scan)
    pacing = pacing_of(opened, pages_to_scan, sleep_millisecs, advised)
    cost = cost_of(opened, None if page_cost is None else PageCost(page_cost / 1e6, "given"))
    found, paced, then = until(
        opened,
        Policy(**chosen),
        pacing,
        cost,
        later=second,
        smart_scan=smart_scan,
        scans=scans,
        seconds=for_seconds,
    )
    if as_json:
        click.echo(json.dumps(forecast_json(found, paced, then)))
    else:
        print_sections(forecast_sections(found, paced, then), make_console(sys.stdout))
    require_coverage(found.at_rest.coverage, min_coverage)


def _advisor(
    snapshot: Snapshot,
    mode: str | None,
    tunables: dict[str, int | None],
    pages_to_scan: int | None,
) -> AdvisorSettings | None:
    """The advisor's settings, None where it is off; raises UsageError for what does not fit."""
    from estimator.advice.advisor import AdvisorSettings, settings_of

    given = {name: value for name, value in tunables.items() if value is not None}
    ksm, kernel = snapshot.info["ksm"], snapshot.info["kernel"]["release"]
    as_found = pages_to_scan is None and ksm.get("advisor_mode") == 1
    if mode is None and as_found:
        mode = "scan-time"
    if mode != "scan-time":
        if given:
            option = _ADVISOR_OPTIONS[next(iter(given))]
            raise UsageError(f"{option} is for the advisor", hint="add --advisor scan-time")
        return None
    if pages_to_scan is not None:
        raise UsageError(
            "the advisor sets pages_to_scan itself, and the kernel lets nobody else",
            hint="--min-pages is where it starts",
        )
    if not snapshot.info["features"].get("advisor"):
        raise UsageError(f"--advisor: Linux {kernel} has none")
    of_kernel = settings_of(snapshot)
    return AdvisorSettings(
        **{f.name: given.get(f.name, getattr(of_kernel, f.name)) for f in fields(of_kernel)}
    )

"""The command ``forecast``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estimator.cli.advisor import TUNABLES, advisor_options, chosen_advisor
from estimator.cli.coverage import require_coverage
from estimator.cli.options import (
    json_option,
    later_option,
    min_coverage_option,
    options,
    policy_options,
    snapshot_argument,
)
from estimator.cli.quantities import Cost, Duration, Share
from estimator.cli.room import FORECAST, RAMP, max_memory_option, room_for
from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.advice.page_cost import PageCost
    from estimator.advice.ramp import Arrivals
    from estimator.advice.reach import Wish
    from estimator.advice.who import Whose

_reach_options = options(
    click.option(
        "--reach",
        "share",
        type=Share(),
        metavar="PERCENT",
        help="Find the pages_to_scan with which so much of the saving is there --within a time.",
    ),
    click.option("--within", type=Duration(), metavar="DURATION", help="That time: 90s, 10min."),
    click.option(
        "--cpu",
        "cpu_share",
        type=Share(),
        metavar="PERCENT",
        help="For at most so much of one CPU until then (default 100%).",
    ),
)


_ramp_options = options(
    click.option(
        "--ramp",
        type=click.IntRange(1),
        metavar="N",
        help="The processes come while ksmd runs, N at a time, in the order of their start.",
    ),
    click.option("--every", type=Duration(), metavar="DURATION", help="The time between: 5s."),
    click.option(
        "--as-started",
        is_flag=True,
        help="The processes come while ksmd runs, when they were started in fact.",
    ),
)


@click.command()
@snapshot_argument
@later_option
@policy_options
@click.option(
    "--pages-to-scan",
    type=click.IntRange(1),
    metavar="N",
    help="Pages that ksmd visits before it sleeps; else as in the snapshot. Turns the advisor off.",
)
@click.option(
    "--sleep",
    "sleep_millisecs",
    type=click.IntRange(0),
    metavar="MS",
    help="How long it sleeps then (sleep_millisecs); else as in the snapshot.",
)
@advisor_options
@click.option(
    "--smart-scan/--no-smart-scan",
    default=None,
    help="Whether ksmd passes over pages that did not merge (6.7 and newer); else as in the "
    "snapshot.",
)
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
    help="Go on for so long (90s, 10min, 1h30min), and say what there is then.",
)
@_reach_options
@_ramp_options
@click.option(
    "--by",
    type=click.Choice(["process", "service"]),
    help="Also say whose pages merge when.",
)
@click.option(
    "--page-cost",
    type=Cost(),
    metavar="MICROSECONDS",
    help="CPU time that ksmd needs per page, or its terms as check --page-cost prints them "
    "(default: the snapshot's, else as published).",
)
@max_memory_option
@min_coverage_option
@json_option
def forecast(
    snapshot: Path,
    later: Path | None,
    pages_to_scan: int | None,
    sleep_millisecs: int | None,
    advisor: str | None,
    smart_scan: bool | None,
    scans: int | None,
    for_seconds: float | None,
    share: float | None,
    within: float | None,
    cpu_share: float | None,
    ramp: int | None,
    every: float | None,
    as_started: bool,
    by: Whose | None,
    page_cost: PageCost | None,
    max_memory: int | None,
    min_coverage: float,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Say what every full scan of ksmd brings, when, and for how much of a CPU."""
    from estimator.advice.moment import Foretell, until
    from estimator.advice.pace import Pacing, pacing_of
    from estimator.advice.page_cost import page_cost as cost_of
    from estimator.advice.reach import reach
    from estimator.ksm.policy import Policy
    from estimator.report.asked import question_words
    from estimator.report.forecast_sections import forecast_json, forecast_sections
    from estimator.report.tables import make_console
    from estimator.report.text import print_sections
    from estimator.snapshot.store import open_snapshot

    if scans is not None and for_seconds is not None:
        raise UsageError("--scans and --for both say where the forecast ends")
    tunables = {name: chosen.pop(name) for name in TUNABLES}
    arrivals = _arrivals(ramp, every, as_started=as_started)
    need = RAMP if arrivals else FORECAST
    with room_for(need, max_memory, in_parts=not (later or arrivals)) as allow:
        opened = open_snapshot(snapshot, stored=True, allow=allow)
        second = open_snapshot(later, stored=True, allow=allow) if later else None
        advised = chosen_advisor(opened, advisor, tunables, pages_to_scan)
        wish = _wish(share, within, cpu_share, pages_to_scan if advised is None else "advisor")
        pacing = pacing_of(opened, pages_to_scan, sleep_millisecs, advised)
        cost = cost_of(opened, page_cost)
        foretell = Foretell(opened, Policy(**chosen), second, smart_scan, allow.parts)
        if arrivals is not None:
            if wish is not None or by is not None:
                option = "--reach" if wish else "--by"
                raise UsageError(f"{option} is for processes that are all there from the start")
            from estimator.advice.ramp import ramp as follow
            from estimator.report.ramp_sections import ramp_json, ramp_sections

            came = follow(foretell, arrivals, pacing, cost, scans=scans, seconds=for_seconds)
            if as_json:
                click.echo(json.dumps(ramp_json(came)))
            else:
                asked = question_words(opened.info, came.at_rest.policy.to_json())
                print_sections(ramp_sections(came), make_console(sys.stdout), asked)
            require_coverage(came.at_rest.coverage, min_coverage)
            return
        reached = None
        if wish is not None:
            reached = reach(foretell.scans(scans), wish, pacing.sleep_millisecs, cost.most)
            pacing = Pacing(reached.pages_to_scan, reached.sleep_millisecs)
        found, paced, then = until(foretell, pacing, cost, scans, for_seconds)
        if as_json:
            click.echo(json.dumps(forecast_json(found, paced, then, reached, by)))
        else:
            asked = question_words(opened.info, found.at_rest.policy.to_json())
            sections = forecast_sections(found, paced, then, reached, by)
            print_sections(sections, make_console(sys.stdout), asked)
        require_coverage(found.at_rest.coverage, min_coverage)


def _arrivals(ramp: int | None, every: float | None, *, as_started: bool) -> Arrivals | None:
    """When processes come; raises UsageError for what does not fit."""
    if as_started and (ramp or every):
        raise UsageError("--as-started and --ramp both say when the processes come")
    if (ramp is None) != (every is None):
        raise UsageError("--ramp N needs --every DURATION, and the other way round")
    if not as_started and (ramp is None or every is None):
        return None
    from estimator.advice.ramp import as_started as when_started
    from estimator.advice.ramp import one_by_one

    return one_by_one(ramp, every) if ramp and every is not None else when_started


def _wish(
    share: float | None, within: float | None, cpu_share: float | None, set_by: object
) -> Wish | None:
    """What --reach asks for; raises UsageError for what does not fit."""
    from estimator.advice.reach import Wish

    if share is None:
        for option, value in (("--within", within), ("--cpu", cpu_share)):
            if value is not None:
                raise UsageError(f"{option} is for --reach", hint="add --reach 90%")
        return None
    if within is None:
        raise UsageError("--reach needs a time", hint="add --within 10min")
    if set_by is not None:
        raise UsageError("--reach finds pages_to_scan: neither give it nor the advisor")
    return Wish(share, within, cpu_share or 1.0)

"""``ksm-estimator advise``, and its options, which those of a page are too."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from estimator.cli.answers import tables
from estimator.cli.coverage import require_coverage
from estimator.cli.options import (
    json_option,
    min_coverage_option,
    options,
    policy_options,
    snapshot_argument,
    top_option,
)
from estimator.cli.quantities import Cost, FiniteRange
from estimator.cli.room import ADVICE, max_memory_option, room_for
from estimator.cli.whatif import read_labels

if TYPE_CHECKING:
    from estimator.advice.page_cost import PageCost
    from estimator.advice.plan import Plan
    from estimator.advice.risk import Risk
    from estimator.advice.schedule import Schedule
    from estimator.ksm.hash_parts import Workroom
    from estimator.snapshot.snapshot import Snapshot


advice_options = options(
    click.option(
        "--share",
        type=FiniteRange(0, 100, min_open=True),
        default=90.0,
        metavar="PERCENT",
        help="How much of the whole saving the plan has to reach (default 90).",
    ),
    click.option(
        "--within",
        type=click.Choice(["uid", "cgroup"]),
        help="Count only sharing that stays inside one domain.",
    ),
    click.option(
        "--only",
        multiple=True,
        type=click.Choice(["systemd", "prctl", "vm", "madvise"]),
        help="By these means alone; repeated. madvise is for programs whose source you can change "
        "(default: the others, or madvise where the kernel has no prctl).",
    ),
    click.option(
        "--scan-time",
        type=FiniteRange(0, min_open=True),
        default=150.0,
        metavar="SECONDS",
        help="The time that a full scan shall take (default 150).",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help='A border of your own for the risks, lines of "PID LABEL" or "/CGROUP LABEL".',
    ),
    click.option(
        "--page-cost",
        type=Cost(),
        metavar="MICROSECONDS",
        help="CPU time that ksmd needs per page, or its terms as check --page-cost prints them "
        "(default: the snapshot's, else as published).",
    ),
)


@click.command()
@snapshot_argument
@policy_options
@advice_options
@max_memory_option
@top_option
@min_coverage_option
@json_option
def advise(
    snapshot: Path,
    as_json: bool,
    top: int | None,
    max_memory: int | None,
    min_coverage: float,
    **chosen: Any,
) -> None:
    """Say what to opt in, how to set ksmd, and at what risk."""
    from estimator.report.as_json import plan_json
    from estimator.report.tables import make_console
    from estimator.report.text import render_plan
    from estimator.snapshot.store import open_snapshot

    advice, policy = split(chosen)
    with room_for(ADVICE, max_memory, in_parts=True) as allow:
        opened = open_snapshot(snapshot, stored=True, allow=allow)
        plan, risk = plan_of(opened, policy, advice, allow.parts, keep_rows=False)
        schedule = schedule_of(opened, plan, advice, allow.parts)
        if as_json:
            click.echo(json.dumps(plan_json(plan, schedule, risk)))
        else:
            render_plan(opened, plan, schedule, risk, make_console(sys.stdout), tables(top))
        require_coverage(plan.everything.coverage, min_coverage)


@dataclass(frozen=True)
class Advice:
    """The options of ``advice_options``: percent, a domain, means, seconds, microseconds."""

    share: float
    within: Literal["uid", "cgroup"] | None
    only: tuple[str, ...]
    scan_time: float
    labels: Path | None
    page_cost: PageCost | None


def split(chosen: dict[str, Any]) -> tuple[Advice, dict[str, Any]]:
    """The options of the advice, and those of the policy."""
    advice = Advice(**{field.name: chosen.pop(field.name) for field in fields(Advice)})
    return advice, chosen


def plan_of(
    snapshot: Snapshot,
    policy: dict[str, Any],
    advice: Advice,
    room: Workroom | None,
    *,
    keep_rows: bool,
) -> tuple[Plan, Risk]:
    """``keep_rows``: see ``make_plan``. Raises what ``schedule_of`` would, before the work."""
    from estimator.advice.opt_in import MEANS
    from estimator.advice.plan import make_plan
    from estimator.advice.risk import assess
    from estimator.advice.schedule import settings_in
    from estimator.ksm.policy import Policy

    settings_in(snapshot)
    labels = read_labels(snapshot, advice.labels) if advice.labels else None
    means = [MEANS[name] for name in advice.only]
    share, within = advice.share / 100, advice.within
    asked = Policy(**policy)
    plan = make_plan(snapshot, asked, share, within, means, room=room, keep_rows=keep_rows)
    return plan, assess(snapshot, plan.prediction, labels=labels)


def schedule_of(snapshot: Snapshot, plan: Plan, advice: Advice, room: Workroom | None) -> Schedule:
    """How to set ksmd. All rows of ``plan`` are given back: the forecast holds as much again."""
    from estimator.advice.schedule import schedule

    for prediction in (plan.everything, plan.reachable):
        if prediction is not plan.prediction:
            prediction.give_back()
    return schedule(
        snapshot, plan.prediction, advice.scan_time, advice.page_cost, room=room, keep_rows=False
    )

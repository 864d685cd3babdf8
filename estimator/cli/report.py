"""``ksm-estimator report``: as text, as JSON, as a page."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from estimator.cli.advise import Advice, advice_options, plan_of, schedule_of, split
from estimator.cli.answers import answer_with_bound, predicted, tables, write_json
from estimator.cli.completion import sort_columns
from estimator.cli.coverage import require_coverage
from estimator.cli.options import (
    force_option,
    html_option,
    json_option,
    min_coverage_option,
    note,
    policy_options,
    snapshot_argument,
    top_option,
)
from estimator.cli.private_file import require_new, write_private
from estimator.cli.room import PAGE, REPORT, max_memory_option, room_for
from estimator.cli.whatif import show_why
from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.ksm.coverage import Coverage
    from estimator.ksm.hash_parts import Workroom
    from estimator.snapshot.snapshot import Snapshot


@click.command()
@snapshot_argument
@policy_options
@top_option
@click.option(
    "--sort",
    metavar="COLUMN",
    shell_complete=sort_columns,
    help="Sort tables by this column: net, scanned, pid ...",
)
@advice_options
@max_memory_option
@min_coverage_option
@json_option
@html_option
@force_option
@click.option(
    "--why",
    is_flag=True,
    help="Say why so much and no more becomes free. The selectors choose whose pages it is about, "
    "--scope alone who takes part.",
)
@click.option("--vma", metavar="ADDRESS", help="With --why: only the VMA with this address.")
def report(
    snapshot: Path,
    as_json: bool,
    html: Path | None,
    why: bool,
    vma: str | None,
    force: bool,
    top: int | None,
    sort: str | None,
    max_memory: int | None,
    min_coverage: float,
    **chosen: Any,
) -> None:
    """Say who brings what: services, programs, processes, VMAs, contents.

    With --html a page of all there is: also the counters and the advice.
    """
    from estimator.ksm.policy import Policy
    from estimator.report.tables import make_console
    from estimator.report.text import render_story
    from estimator.snapshot.store import open_snapshot

    if html is not None and as_json:
        raise UsageError("--json and --html are two reports", hint="ask for one, then the other")
    require_new(html, force)
    advice, policy = split(chosen)
    if vma is not None and not why:
        raise UsageError("--vma goes with --why")
    if why and html is not None:
        raise UsageError("--why has no page", hint="leave out --html")
    if html is None:
        _refuse_advice_options()
    with room_for(PAGE if html else REPORT, max_memory, in_parts=True) as allow:
        opened = open_snapshot(snapshot, stored=True, allow=allow)
        if why:
            show_why(opened, policy, vma, as_json, min_coverage, allow.parts)
            return
        if html is not None:
            page, coverage = _page(opened, policy, advice, allow.parts)
            write_private(html, page, force)
            note(f"wrote {html}")
            require_coverage(coverage, min_coverage)
            return
        if opened.info.get("without_contents"):
            answer_with_bound(opened, Policy(**policy), as_json, min_coverage, top, sort)
            return
        prediction = predicted(opened, policy, allow.parts)
        if as_json:
            write_json(prediction)
        else:
            render_story(opened, prediction, make_console(sys.stdout), tables(top, sort))
        require_coverage(prediction.coverage, min_coverage)


def _refuse_advice_options() -> None:
    """Raise UsageError if one was given where no advice is shown."""
    context = click.get_current_context()
    for field in fields(Advice):
        if context.get_parameter_source(field.name) is not ParameterSource.DEFAULT:
            option = "--" + field.name.replace("_", "-")
            raise UsageError(f"{option} is for the advice in a page", hint="add --html FILE")


def _page(
    snapshot: Snapshot, policy: dict[str, Any], advice: Advice, room: Workroom | None
) -> tuple[str, Coverage]:
    """The page, and how much was known."""
    try:
        from estimator.report.html import bound_page, page_with_plan, shown
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--html needs {error.name}", hint="pip install jinja2 matplotlib"
        ) from error
    if snapshot.info.get("without_contents"):
        from estimator.ksm.policy import Policy
        from estimator.ksm.upper_bound import upper_bound

        bound = upper_bound(snapshot, Policy(**policy))
        return bound_page(snapshot, bound), bound.coverage
    plan, risk = plan_of(snapshot, policy, advice, room, keep_rows=True)
    found = shown(snapshot, plan.everything, plan)
    times = schedule_of(snapshot, plan, advice, room)
    return page_with_plan(snapshot, found, plan, times, risk), plan.everything.coverage

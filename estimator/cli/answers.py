"""The commands that answer from a snapshot: report, advise, compare, verify."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from estimator.cli.completion import sort_columns
from estimator.cli.coverage import require_contents, require_coverage, require_share
from estimator.cli.options import (
    force_option,
    html_option,
    json_option,
    min_coverage_option,
    note,
    options,
    policy_options,
    policy_options_of_today,
    snapshot_argument,
    top_option,
)
from estimator.cli.private_file import require_new, write_private
from estimator.cli.quantities import Cost
from estimator.cli.room import ADVICE, PAGE, REPORT, max_memory_option, room_for
from estimator.cli.streams import say
from estimator.cli.whatif import read_labels, show_why
from estimator.errors import (
    EXIT_DIFFERS,
    CannotAnswerError,
    TargetError,
    UsageError,
)

if TYPE_CHECKING:
    from estimator.advice.page_cost import PageCost
    from estimator.advice.plan import Plan
    from estimator.advice.risk import Risk
    from estimator.advice.schedule import Schedule
    from estimator.ksm.coverage import Coverage
    from estimator.ksm.hash_parts import Workroom
    from estimator.ksm.policy import Policy
    from estimator.ksm.prediction import Prediction
    from estimator.report.text import Tables
    from estimator.snapshot.snapshot import Snapshot

_advice_options = options(
    click.option(
        "--share",
        type=click.FloatRange(0, 100, min_open=True),
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
        type=click.FloatRange(0, min_open=True),
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
@top_option
@click.option(
    "--sort",
    metavar="COLUMN",
    shell_complete=sort_columns,
    help="Sort tables by this column: net, scanned, pid ...",
)
@_advice_options
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
    advice, policy = _split(chosen)
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
        prediction = _predict(opened, policy, allow.parts)
        if as_json:
            write_json(prediction)
        else:
            render_story(opened, prediction, make_console(sys.stdout), _tables(top, sort))
        require_coverage(prediction.coverage, min_coverage)


@click.command()
@snapshot_argument
@policy_options
@_advice_options
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

    advice, policy = _split(chosen)
    with room_for(ADVICE, max_memory, in_parts=True) as allow:
        opened = open_snapshot(snapshot, stored=True, allow=allow)
        plan, risk = _plan(opened, policy, advice, allow.parts, keep_rows=False)
        schedule = _schedule(opened, plan, advice, allow.parts)
        if as_json:
            click.echo(json.dumps(plan_json(plan, schedule, risk)))
        else:
            render_plan(opened, plan, schedule, risk, make_console(sys.stdout), _tables(top))
        require_coverage(plan.everything.coverage, min_coverage)


@click.command()
@click.argument("a", type=click.Path(path_type=Path, readable=False))
@click.argument("b", type=click.Path(path_type=Path, readable=False))
@policy_options
@top_option
@min_coverage_option
@json_option
def compare(
    a: Path, b: Path, as_json: bool, top: int | None, min_coverage: float, **policy: Any
) -> None:
    """Say what changed from A to B: snapshots, or files from predict --json.

    The options are for snapshots: what is in a file was predicted already.
    """
    from estimator.advice.changed_contents import changed_contents
    from estimator.advice.compare import compare as compare_predictions
    from estimator.report.as_json import comparison_json
    from estimator.report.asked import policy_words
    from estimator.report.tables import make_console
    from estimator.report.text import render_comparison

    if _is_json(a) and _is_json(b) and (given := _given(policy)):
        raise UsageError(
            f"{', '.join(given)} can't change what {a} and {b} say: they were predicted already",
            hint="predict with these options, or compare snapshots",
        )
    (one, first), (other, second) = (_load(path, policy) for path in (a, b))
    sides = {"A": one, "B": other}
    contents = changed_contents(first, second) if first and second else None
    comparison = compare_predictions(one, other, contents)
    if as_json:
        click.echo(json.dumps(comparison_json(comparison)))
    else:
        asked = [
            f"{name} is {path}, asked: {policy_words(side.get('policy', {}), {})}."
            for (name, side), path in zip(sides.items(), (a, b), strict=True)
        ]
        render_comparison(comparison, make_console(sys.stdout), asked, _tables(top))
    for name, side in sides.items():
        share = side.get("coverage", {}).get("hashed_share")
        require_share(share, min_coverage, f" of {name}")


@click.command()
@snapshot_argument
@policy_options_of_today
@top_option
@min_coverage_option
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="PERCENT",
    help="How far a counter may be from its prediction (default 0).",
)
@json_option
@click.option(
    "--root",
    type=click.Path(path_type=Path, readable=False),
    default=Path("/"),
    help="Where /sys and /proc of the running system are (default /).",
)
def verify(
    snapshot: Path,
    as_json: bool,
    root: Path,
    top: int | None,
    min_coverage: float,
    tolerance: float,
    **policy: Any,
) -> None:
    """Set the prediction beside what the running system shows.

    Ends with 0 if they agree, 7 if a counter differs, 5 if ksmd has not come to rest yet.
    """
    from estimator.advice.verify import verify as verify_prediction
    from estimator.procfs.ksm_counters import read_reality
    from estimator.report.as_json import verification_json
    from estimator.report.tables import make_console
    from estimator.report.text import render_verification
    from estimator.snapshot.store import open_snapshot

    opened = open_snapshot(snapshot, stored=True)
    prediction = _predict(opened, policy)
    verification = verify_prediction(prediction, read_reality(root))
    if as_json:
        click.echo(json.dumps(verification_json(prediction, verification)))
    else:
        console = make_console(sys.stdout)
        render_verification(opened, prediction.policy, verification, console, _tables(top))
    if not verification.settled:
        raise CannotAnswerError(
            "nothing to compare with yet: ksmd has not done the scans that merging takes",
            hint="turn it on (echo 1 > /sys/kernel/mm/ksm/run) and watch full_scans there",
        )
    require_coverage(prediction.coverage, min_coverage)
    if differing := verification.differing(tolerance):
        beyond = f" by more than {tolerance:g} %" if tolerance else ""
        message = f"the kernel differs{beyond} in {', '.join(differing)}"
        say(f"ksm-estimator: {message}")
        sys.exit(EXIT_DIFFERS)


@dataclass(frozen=True)
class _Advice:
    """The options of ``_advice_options``: percent, a domain, means, seconds, microseconds."""

    share: float
    within: Literal["uid", "cgroup"] | None
    only: tuple[str, ...]
    scan_time: float
    labels: Path | None
    page_cost: PageCost | None


def _split(chosen: dict[str, Any]) -> tuple[_Advice, dict[str, Any]]:
    """The options of the advice, and those of the policy."""
    advice = _Advice(**{field.name: chosen.pop(field.name) for field in fields(_Advice)})
    return advice, chosen


def _refuse_advice_options() -> None:
    """Raise UsageError if one was given where no advice is shown."""
    context = click.get_current_context()
    for field in fields(_Advice):
        if context.get_parameter_source(field.name) is not ParameterSource.DEFAULT:
            option = "--" + field.name.replace("_", "-")
            raise UsageError(f"{option} is for the advice in a page", hint="add --html FILE")


def _given(policy: dict[str, Any]) -> list[str]:
    """Those of the options ``policy`` that are on the command line."""
    context = click.get_current_context()
    return [
        max(option.opts, key=len)
        for option in context.command.params
        if option.name in policy
        and context.get_parameter_source(option.name) != ParameterSource.DEFAULT
    ]


def answer_with_bound(
    snapshot: Snapshot,
    policy: Policy,
    as_json: bool,
    min_coverage: float,
    top: int | None = None,
    sort: str | None = None,
) -> None:
    """Say what can be said of a snapshot without page contents; exits as ``require_coverage``."""
    from estimator.ksm.upper_bound import upper_bound

    bound = upper_bound(snapshot, policy)
    if as_json:
        from estimator.report.as_json import bound_json

        click.echo(json.dumps(bound_json(snapshot, bound)))
    else:
        from estimator.report.tables import make_console
        from estimator.report.text import render_bound

        render_bound(snapshot, bound, make_console(sys.stdout), _tables(top, sort))
    require_contents(bound.coverage, min_coverage)


def _tables(top: int | None, sort: str | None = None) -> Tables:
    from estimator.report.text import Tables

    return Tables(top, sort, ": --top 0 shows all")


def _predict(
    snapshot: Snapshot, policy: dict[str, Any], room: Workroom | None = None
) -> Prediction:
    from estimator.ksm.policy import Policy
    from estimator.ksm.predict import predict

    return predict(snapshot, Policy(**policy), room=room)


def show_prediction(
    snapshot: Snapshot, prediction: Prediction, as_json: bool, later: Snapshot | None = None
) -> None:
    """Write the counters of a prediction to stdout, as text or JSON."""
    if as_json:
        write_json(prediction)
        return
    from estimator.report.tables import make_console
    from estimator.report.text import render_counters

    render_counters(snapshot, prediction, make_console(sys.stdout), later)


def write_json(prediction: Prediction) -> None:
    """Write a prediction to stdout as one JSON object."""
    from estimator.report.as_json import prediction_json_parts

    sys.stdout.buffer.writelines(prediction_json_parts(prediction))
    click.echo()


def _plan(
    snapshot: Snapshot,
    policy: dict[str, Any],
    advice: _Advice,
    room: Workroom | None,
    *,
    keep_rows: bool,
) -> tuple[Plan, Risk]:
    """``keep_rows``: see ``make_plan``."""
    from estimator.advice.opt_in import MEANS
    from estimator.advice.plan import make_plan
    from estimator.advice.risk import assess
    from estimator.ksm.policy import Policy

    labels = read_labels(snapshot, advice.labels) if advice.labels else None
    means = [MEANS[name] for name in advice.only]
    share, within = advice.share / 100, advice.within
    asked = Policy(**policy)
    plan = make_plan(snapshot, asked, share, within, means, room=room, keep_rows=keep_rows)
    return plan, assess(snapshot, plan.prediction, labels=labels)


def _schedule(snapshot: Snapshot, plan: Plan, advice: _Advice, room: Workroom | None) -> Schedule:
    """How to set ksmd. All rows of ``plan`` are given back: the forecast holds as much again."""
    from estimator.advice.schedule import schedule

    for prediction in (plan.everything, plan.reachable):
        if prediction is not plan.prediction:
            prediction.give_back()
    return schedule(
        snapshot, plan.prediction, advice.scan_time, advice.page_cost, room=room, keep_rows=False
    )


def _page(
    snapshot: Snapshot, policy: dict[str, Any], advice: _Advice, room: Workroom | None
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
    plan, risk = _plan(snapshot, policy, advice, room, keep_rows=True)
    found = shown(snapshot, plan.everything, plan)
    times = _schedule(snapshot, plan, advice, room)
    return page_with_plan(snapshot, found, plan, times, risk), plan.everything.coverage


def _is_json(path: Path) -> bool:
    """Whether ``path`` is a file that predict --json wrote, as far as its first letter tells."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError as error:
        raise TargetError(f"{path} can't be read: {error.strerror}") from error


def _load(path: Path, policy: dict[str, Any]) -> tuple[Any, Snapshot | None]:
    """The prediction of a snapshot, with it, or one written by predict --json."""
    from estimator.report.as_json import prediction_json
    from estimator.snapshot.store import open_snapshot

    if not _is_json(path):
        snapshot = open_snapshot(path)
        return prediction_json(_predict(snapshot, policy)), snapshot
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TargetError(
            f"{path} is neither a snapshot nor JSON of a prediction ({error})",
            hint="make one with: ksm-estimator predict SNAPSHOT --json",
        ) from error
    if isinstance(found, dict) and "upper_bound" in found:
        raise CannotAnswerError(
            f"{path} holds an upper bound, made without page contents: there is nothing to compare"
        )
    return found, None

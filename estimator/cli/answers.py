"""The commands that answer from a snapshot: report, advise, compare, verify."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from estimator.cli.options import (
    min_coverage_option,
    options,
    policy_options,
    policy_options_of_today,
)
from estimator.errors import EXIT_LOW_COVERAGE, CannotAnswerError, TargetError, UsageError

if TYPE_CHECKING:
    from estimator.advice.page_cost import PageCost
    from estimator.ksm.coverage import Coverage
    from estimator.ksm.policy import Policy
    from estimator.ksm.prediction import Prediction
    from estimator.snapshot.snapshot import Snapshot

_snapshot = click.argument("snapshot", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
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
        "--page-cost",
        type=click.FloatRange(0, min_open=True),
        metavar="MICROSECONDS",
        help="CPU time that ksmd needs per page (default: the snapshot's, else as published).",
    ),
)


@click.command()
@_snapshot
@policy_options
@_advice_options
@min_coverage_option
@_json
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page.")
def report(
    snapshot: Path, as_json: bool, html: Path | None, min_coverage: float, **chosen: Any
) -> None:
    """Say what KSM would save, who brings it, and from what."""
    from estimator.ksm.policy import Policy
    from estimator.snapshot.store import open_snapshot

    if html is not None and as_json:
        raise UsageError("--json and --html are two reports", hint="ask for one, then the other")
    opened = open_snapshot(snapshot)
    advice, policy = _split(chosen)
    if html is None:
        _refuse_advice_options()
        if opened.info.get("without_contents"):
            answer_with_bound(opened, Policy(**policy), as_json, min_coverage)
            return
        prediction = _predict(opened, policy)
        show_prediction(opened, prediction, as_json)
        require_coverage(prediction.coverage, min_coverage)
        return
    if html.exists():
        raise UsageError(f"{html} exists already", hint="choose another name or remove it")
    page, coverage = _page(opened, policy, advice)
    _write_private(html, page)
    click.echo(f"wrote {html}", err=True)
    require_coverage(coverage, min_coverage)


@click.command()
@_snapshot
@policy_options
@_advice_options
@min_coverage_option
@_json
def advise(snapshot: Path, as_json: bool, min_coverage: float, **chosen: Any) -> None:
    """Say what to opt in, how to set ksmd, and at what risk."""
    from estimator.report.as_json import plan_json
    from estimator.report.tables import make_console
    from estimator.report.text import render_plan
    from estimator.snapshot.store import open_snapshot

    opened = open_snapshot(snapshot)
    advice, policy = _split(chosen)
    plan, schedule, risk = _advise(opened, policy, advice)
    if as_json:
        click.echo(json.dumps(plan_json(plan, schedule, risk)))
    else:
        render_plan(opened, plan, schedule, risk, make_console(sys.stdout))
    require_coverage(plan.everything.coverage, min_coverage)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@policy_options
@_json
def compare(a: Path, b: Path, as_json: bool, **policy: Any) -> None:
    """Say what changed from A to B: snapshots, or files from predict --json.

    The options are for snapshots: what is in a file was predicted already.
    """
    from estimator.advice.compare import changed_contents
    from estimator.advice.compare import compare as compare_predictions
    from estimator.report.as_json import comparison_json
    from estimator.report.tables import make_console
    from estimator.report.text import render_comparison

    if a.is_file() and b.is_file() and (given := _given(policy)):
        raise UsageError(
            f"{', '.join(given)} can't change what {a} and {b} say: they were predicted already",
            hint="predict with these options, or compare snapshots",
        )
    (one, first), (other, second) = (_load(path, policy) for path in (a, b))
    contents = changed_contents(first, second) if first and second else None
    comparison = compare_predictions(one, other, contents)
    if as_json:
        click.echo(json.dumps(comparison_json(comparison)))
    else:
        render_comparison(comparison, make_console(sys.stdout))


@click.command()
@_snapshot
@policy_options_of_today
@_json
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    help="Where /sys and /proc of the running system are (default /).",
)
def verify(snapshot: Path, as_json: bool, root: Path, **policy: Any) -> None:
    """Set the prediction beside what the running system shows."""
    from estimator.advice.verify import verify as verify_prediction
    from estimator.procfs.ksm_counters import read_reality
    from estimator.report.as_json import verification_json
    from estimator.report.tables import make_console
    from estimator.report.text import render_verification
    from estimator.snapshot.store import open_snapshot

    prediction = _predict(open_snapshot(snapshot), policy)
    verification = verify_prediction(prediction, read_reality(root))
    if as_json:
        click.echo(json.dumps(verification_json(verification)))
    else:
        render_verification(verification, make_console(sys.stdout))


@dataclass(frozen=True)
class _Advice:
    """The options of ``_advice_options``: percent, a domain, means, seconds, microseconds."""

    share: float
    within: Literal["uid", "cgroup"] | None
    only: tuple[str, ...]
    scan_time: float
    page_cost: float | None


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
    snapshot: Snapshot, policy: Policy, as_json: bool, min_coverage: float
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

        render_bound(snapshot, bound, make_console(sys.stdout))
    require_coverage(bound.coverage, min_coverage)


def require_coverage(coverage: Coverage, percent: float) -> None:
    """Exit with 6 unless ``percent`` of what ksmd would visit was read; nothing to read is fine."""
    share = coverage.hashed_share
    if share is not None and 100 * share < percent:
        message = f"only {100 * share:.1f} % of the candidate pages could be read"
        click.echo(f"ksm-estimator: {message}; accept it with --min-coverage", err=True)
        sys.exit(EXIT_LOW_COVERAGE)


def _predict(snapshot: Snapshot, policy: dict[str, Any]) -> Prediction:
    from estimator.ksm.policy import Policy
    from estimator.ksm.predict import predict

    return predict(snapshot, Policy(**policy))


def show_prediction(snapshot: Snapshot, prediction: Prediction, as_json: bool) -> None:
    """Write a prediction to stdout, as text or JSON."""
    if as_json:
        from estimator.report.as_json import prediction_json_parts

        sys.stdout.buffer.writelines(prediction_json_parts(prediction))
        click.echo()
        return
    from estimator.report.tables import make_console
    from estimator.report.text import render

    render(snapshot, prediction, make_console(sys.stdout))


def _advise(snapshot: Snapshot, policy: dict[str, Any], advice: _Advice) -> Any:
    from estimator.advice.opt_in import MEANS
    from estimator.advice.plan import make_plan
    from estimator.advice.risk import assess
    from estimator.advice.schedule import schedule
    from estimator.ksm.policy import Policy

    means = [MEANS[name] for name in advice.only]
    plan = make_plan(snapshot, Policy(**policy), advice.share / 100, advice.within, means)
    cost = _page_cost(advice.page_cost)
    times = schedule(snapshot, plan.prediction, advice.scan_time, cost)
    return plan, times, assess(snapshot, plan.prediction)


def _page_cost(microseconds: float | None) -> PageCost | None:
    from estimator.advice.page_cost import PageCost

    return None if microseconds is None else PageCost(microseconds / 1e6, "given")


def _page(snapshot: Snapshot, policy: dict[str, Any], advice: _Advice) -> tuple[str, Coverage]:
    """The page, and how much was known."""
    try:
        from estimator.report.html import bound_page, report_page
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--html needs {error.name}", hint="pip install 'ksm-estimator[report]'"
        ) from error
    if snapshot.info.get("without_contents"):
        from estimator.ksm.policy import Policy
        from estimator.ksm.upper_bound import upper_bound

        bound = upper_bound(snapshot, Policy(**policy))
        return bound_page(snapshot, bound), bound.coverage
    plan, times, risk = _advise(snapshot, policy, advice)
    return report_page(snapshot, plan.everything, plan, times, risk), plan.everything.coverage


def _load(path: Path, policy: dict[str, Any]) -> tuple[Any, Snapshot | None]:
    """The prediction of a snapshot, with it, or one written by predict --json."""
    from estimator.report.as_json import prediction_json
    from estimator.snapshot.store import open_snapshot

    if not path.is_file():
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


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read: it names what runs on the machine."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise TargetError(f"{path} can't be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except BaseException as error:
        path.unlink()
        if isinstance(error, OSError):
            raise TargetError(f"{path} can't be written: {error.strerror}") from error
        raise

"""``ksm-estimator compare``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from estimator.cli.answers import predicted, tables
from estimator.cli.coverage import require_share
from estimator.cli.options import (
    json_option,
    min_coverage_option,
    policy_options,
    top_option,
)
from estimator.errors import CannotAnswerError, TargetError, UsageError

if TYPE_CHECKING:
    from estimator.snapshot.snapshot import Snapshot


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
        render_comparison(comparison, make_console(sys.stdout), asked, tables(top))
    for name, side in sides.items():
        share = side.get("coverage", {}).get("hashed_share")
        require_share(share, min_coverage, f" of {name}")


def _given(policy: dict[str, Any]) -> list[str]:
    """Those of the options ``policy`` that are on the command line."""
    context = click.get_current_context()
    return [
        max(option.opts, key=len)
        for option in context.command.params
        if option.name in policy
        and context.get_parameter_source(option.name) != ParameterSource.DEFAULT
    ]


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
        return prediction_json(predicted(snapshot, policy)), snapshot
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

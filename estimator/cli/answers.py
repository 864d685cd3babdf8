"""What several commands do with a snapshot: predict, and show it as text or JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from estimator.cli.coverage import require_contents

if TYPE_CHECKING:
    from estimator.ksm.hash_parts import Workroom
    from estimator.ksm.policy import Policy
    from estimator.ksm.prediction import Prediction
    from estimator.report.text import Tables
    from estimator.snapshot.snapshot import Snapshot


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

        render_bound(snapshot, bound, make_console(sys.stdout), tables(top, sort))
    require_contents(bound.coverage, min_coverage)


def tables(top: int | None, sort: str | None = None) -> Tables:
    """How the tables on a terminal are cut and sorted."""
    from estimator.report.text import Tables

    return Tables(top, sort, ": --top 0 shows all")


def predicted(
    snapshot: Snapshot, policy: dict[str, Any], room: Workroom | None = None
) -> Prediction:
    """The prediction for the options ``policy``; errors as for ``predict``."""
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

"""``ksm-estimator verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from estimator.cli.answers import predicted, tables
from estimator.cli.coverage import require_coverage
from estimator.cli.options import (
    json_option,
    min_coverage_option,
    policy_options_of_today,
    snapshot_argument,
    top_option,
)
from estimator.cli.quantities import FiniteRange
from estimator.cli.streams import say
from estimator.errors import EXIT_DIFFERS, CannotAnswerError


@click.command()
@snapshot_argument
@policy_options_of_today
@top_option
@min_coverage_option
@click.option(
    "--tolerance",
    type=FiniteRange(min=0),
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
    prediction = predicted(opened, policy)
    verification = verify_prediction(prediction, read_reality(root))
    if as_json:
        click.echo(json.dumps(verification_json(prediction, verification)))
    else:
        console = make_console(sys.stdout)
        render_verification(opened, prediction.policy, verification, console, tables(top))
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

"""The command ``metrics``: for who asks again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from estimator.cli.coverage import require_coverage
from estimator.cli.options import min_coverage_option, policy_options, snapshot_argument
from estimator.cli.private_file import new_file

_READABLE = 0o644  # node_exporter is another user


@click.command()
@snapshot_argument
@policy_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE.prom",
    help="Replace this file at once (mode 0644): in the directory that node_exporter's textfile "
    "collector reads (default: stdout).",
)
@click.option(
    "--services",
    type=click.IntRange(0, 1000),
    default=20,
    metavar="N",
    help="So many services by name, the others together (default 20).",
)
@min_coverage_option
def metrics(
    snapshot: Path, output: Path | None, services: int, min_coverage: float, **policy: Any
) -> None:
    """Write the prediction as OpenMetrics text, for Prometheus."""
    from estimator.ksm.policy import Policy
    from estimator.ksm.predict import predict
    from estimator.report.openmetrics import open_metrics
    from estimator.snapshot.store import open_snapshot

    opened = open_snapshot(snapshot)
    prediction = predict(opened, Policy(**policy))
    text = open_metrics(opened, prediction, services)
    if output is None:
        click.echo(text, nl=False)
    else:
        with new_file(output, replace=True) as place:
            place.write_text(text, encoding="utf-8")
            place.chmod(_READABLE)
    require_coverage(prediction.coverage, min_coverage)

"""Options of the kernel's scan-time advisor, and what they come to."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import click

from estimator.cli.options import options
from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.advice.advisor import AdvisorSettings
    from estimator.snapshot.snapshot import Snapshot

TUNABLES = {
    "target_scan_time": "--target-scan-time",
    "max_cpu": "--max-cpu",
    "min_pages_to_scan": "--min-pages",
    "max_pages_to_scan": "--max-pages",
}
advisor_options = options(
    click.option(
        "--advisor",
        type=click.Choice(["none", "scan-time"]),
        help="Whether the kernel sets pages_to_scan itself (6.8 and newer); else as in the "
        "snapshot.",
    ),
    click.option(
        "--target-scan-time",
        type=click.IntRange(1),
        metavar="SECONDS",
        help="Time of a full scan that the advisor aims at.",
    ),
    click.option(
        "--max-cpu",
        type=click.IntRange(1, 100),
        metavar="PERCENT",
        help="The most that the advisor lets ksmd take of one CPU.",
    ),
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
        help="The most pages_to_scan that the advisor sets.",
    ),
)


def chosen_advisor(
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
            option = TUNABLES[next(iter(given))]
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

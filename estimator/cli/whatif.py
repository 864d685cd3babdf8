"""The command ``whatif``, and ``report --why``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estimator.cli.coverage import require_coverage
from estimator.cli.options import (
    as_if_option,
    json_option,
    later_option,
    min_coverage_option,
    policy_options,
    snapshot_argument,
)
from estimator.errors import CannotAnswerError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from estimator.ksm.hash_parts import Workroom
    from estimator.snapshot.snapshot import Snapshot


@click.command()
@snapshot_argument
@later_option
@policy_options
@as_if_option
@click.option(
    "--labels",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help='Domains of your own, lines of "PID LABEL" or "/CGROUP LABEL".',
)
@click.option("--pieces", is_flag=True, help="End with 5 unless smaller pages are in the answer.")
@click.option("--near", is_flag=True, help="End with 5 unless nearly equal ones are in the answer.")
@min_coverage_option
@json_option
def whatif(
    snapshot: Path,
    later: Path | None,
    labels: Path | None,
    pieces: bool,
    near: bool,
    as_if: tuple[str, ...],
    min_coverage: float,
    as_json: bool,
    **policy: Any,
) -> None:
    """Set policies side by side: what each frees, what it costs, what it loses, and why."""
    from estimator.advice.whatif import what_if
    from estimator.ksm.policy import Policy
    from estimator.report.asked import question_words
    from estimator.report.tables import make_console
    from estimator.report.text import print_sections
    from estimator.report.whatif_sections import what_if_json, what_if_sections
    from estimator.snapshot.store import open_snapshot

    opened = open_snapshot(snapshot, others=bool(as_if))
    _require_hashes(opened, {"pieces": pieces, "near": near})
    second = open_snapshot(later, others=bool(as_if)) if later else None
    domains = None
    if labels:
        import pandas as pd

        domains = pd.factorize(read_labels(opened, labels))[0].astype("i8")
    found = what_if(opened, Policy(**policy), later=second, labels=domains, as_if=as_if)
    if as_json:
        click.echo(json.dumps(what_if_json(found)))
    else:
        asked = question_words(opened.info, found.asked.policy.to_json())
        print_sections(what_if_sections(found), make_console(sys.stdout), asked)
    require_coverage(found.asked.coverage, min_coverage)


def _require_hashes(snapshot: Snapshot, asked: dict[str, bool]) -> None:
    """Raise CannotAnswerError if the snapshot lacks the hashes that an option asks about."""
    column = {"pieces": "piece_hash_0", "near": "near_hash"}
    lacking = [f"--{name}" for name in asked if asked[name] and column[name] not in snapshot.frames]
    if lacking:
        options = " ".join(lacking)
        raise CannotAnswerError(
            f"the snapshot was collected without {options}: it lacks these hashes",
            hint=f"collect again with {options}",
        )


def show_why(
    snapshot: Snapshot,
    policy: dict[str, Any],
    vma: str | None,
    as_json: bool,
    min_coverage: float,
    room: Workroom | None,
) -> None:
    """Answer ``report --why``: ``policy`` has its selectors say whose pages it is about."""
    from estimator.advice.why import why
    from estimator.ksm.policy import SELECTORS, Policy
    from estimator.report.asked import question_words
    from estimator.report.tables import make_console
    from estimator.report.text import print_sections
    from estimator.report.whatif_sections import why_json, why_sections
    from estimator.report.words import chosen_words

    selectors = {name: policy[name] for name in SELECTORS}
    rest = {name: value for name, value in policy.items() if name not in SELECTORS}
    whom = Policy(**selectors) if any(selectors.values()) else None
    address = None if vma is None else _address(vma)
    if address is not None and whom is None:
        raise UsageError("an address is one of a process", hint="add --pid PID")
    found = why(snapshot, Policy(**rest), whom=whom, vma=address, room=room)
    if as_json:
        click.echo(json.dumps(why_json(found)))
    else:
        asked = question_words(snapshot.info, found.prediction.policy.to_json())
        if whom is not None:
            asked.append(f"About {chosen_words(whom)}; who takes part is what --scope says.")
        print_sections(why_sections(found), make_console(sys.stdout), asked)
    require_coverage(found.prediction.coverage, min_coverage)


def _address(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise UsageError(
            f"{text!r} is no address", hint="as in /proc/PID/maps: 7f1200000000"
        ) from None


def read_labels(snapshot: Snapshot, path: Path) -> pd.Series[str]:
    """The label of each process, see ``label_names``; raises UsageError for what it can't be."""
    from estimator.advice.domains import label_names

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path} can't be read: {why}") from error
    return label_names(snapshot.processes, lines, str(path))

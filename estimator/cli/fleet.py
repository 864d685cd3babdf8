"""The commands of ``fleet``: many snapshots."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estimator.cli.coverage import require_share
from estimator.cli.options import (
    force_option,
    html_option,
    json_option,
    min_coverage_option,
    note,
    options,
    policy_options,
    quiet,
    top_option,
)
from estimator.cli.private_file import new_file, require_new, write_private
from estimator.cli.quantities import Duration, FiniteRange, Share
from estimator.cli.streams import say
from estimator.errors import EXIT_LOW_COVERAGE, TargetError, UsageError
from estimator.units import plural

if TYPE_CHECKING:
    from estimator.fleet.overcommit import Overcommit
    from estimator.fleet.summary import Summary


@click.group()
def fleet() -> None:
    """Answer for many snapshots: what KSM brings on all machines, and what should stand together.

    Needs the extra fleet: pip install '.[fleet]'.
    """


def require_extra(*modules: str) -> None:
    """Raise UsageError unless the extra ``fleet`` is installed."""
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"fleet needs {error.name}", hint="pip install 'ksm-estimator[fleet]'"
            ) from error


_cluster_options = options(
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Of a Dask cluster, whose workers can read the snapshots (default: processes here).",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="So many processes here (default: one for each CPU).",
    ),
    click.option(
        "--timeout",
        type=Duration(),
        default="60s",
        metavar="DURATION",
        help="How long storage may take for one snapshot, or to list them (default 60s).",
    ),
)


@fleet.command("report")
@click.argument("places", nargs=-1, required=True, metavar="SNAPSHOT|DIRECTORY|URL...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, readable=False),
    metavar="NAME.fleet",
    help="Keep what was found in this directory; a run that was interrupted goes on there.",
)
@_cluster_options
@click.option(
    "--by",
    type=click.Choice(["unit", "comm", "cgroup"]),
    default="unit",
    help="What a service is: a unit or a cgroup, without the numbers of its instances, or a "
    "program (default unit).",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help='Roles of hosts, lines of "HOST-PATTERN ROLE".',
)
@policy_options
@click.option(
    "--scan-time",
    type=Duration(),
    default="150s",
    metavar="DURATION",
    help="The time that a full scan shall take on each host (default 150s).",
)
@click.option(
    "--overcommit",
    type=FiniteRange(1, min_open=True),
    metavar="RATIO",
    help="Say on which hosts this ratio of memory without KSM to memory there is safe: 1.3.",
)
@click.option(
    "--written",
    type=Share(),
    metavar="PERCENT",
    help="With --overcommit: of the merged pages, written within a minute on every host (default: "
    "as measured there with collect --passes 3; unknown elsewhere).",
)
@top_option
@min_coverage_option
@json_option
@click.option(
    "--parquet",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Write one row per host and service, for tools of your own.",
)
@html_option
@force_option
def fleet_report(
    places: tuple[str, ...],
    output: Path | None,
    scheduler: str | None,
    workers: int | None,
    timeout: float,
    by: Any,
    labels: Path | None,
    scan_time: float,
    overcommit: float | None,
    written: float | None,
    top: int | None,
    min_coverage: float,
    as_json: bool,
    parquet: Path | None,
    html: Path | None,
    force: bool,
    **policy: Any,
) -> None:
    """Say what KSM brings on all hosts, by service and role, at what cost, and what to opt in.

    A snapshot that can't be read, or is of a host that has another one, is named and not counted.
    """
    require_extra("distributed", "fsspec", "cryptography")
    if scheduler is not None and workers is not None:
        raise UsageError("--workers is for processes here", hint="leave out --scheduler")
    if written is not None and overcommit is None:
        raise UsageError("--written is for --overcommit", hint="--overcommit 1.3 --written 20%")
    for path in (parquet, html):
        require_new(path, force)
    from estimator.fleet.kinds import Roles
    from estimator.fleet.one_host import Question
    from estimator.fleet.overcommit import overcommit as judge_overcommit
    from estimator.fleet.results import Results
    from estimator.fleet.run import cluster, read_fleet
    from estimator.fleet.storage import find_places
    from estimator.fleet.summary import summarise, write_services
    from estimator.ksm.policy import Policy

    question = Question(Policy(**policy), by, scan_time)
    roles = Roles(read_lines(labels), str(labels)) if labels else Roles()
    found = find_places(places, timeout)
    with _kept_or_not(output) as directory:
        results = Results(directory, question, replace=force)
        try:
            with cluster(scheduler, workers) as client:
                with _progress() as told:
                    read_fleet(client, found, question, results, told, timeout)
                summary = summarise(results, question.policy, roles, found)
        except KeyboardInterrupt:
            if output is None:
                raise
            raise KeyboardInterrupt(
                f"interrupted; what was found is in {output}: the same command goes on there"
            ) from None
        if parquet is not None:
            write_table(parquet, lambda path: write_services(results, summary, path))
        asked = None
        if overcommit is not None:
            asked = judge_overcommit(summary.hosts, summary.failed, overcommit, written)
        _show(summary, asked, as_json, top, html, force)
    _require(summary, min_coverage)


@contextlib.contextmanager
def _kept_or_not(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="ksm-fleet-") as directory:
        yield Path(directory)


def read_lines(path: Path) -> list[str]:
    """Of a file of labels; raises TargetError."""
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{path} can't be read: {error}") from error


def write_table(path: Path, write: Callable[[Path], int]) -> None:
    """``write`` to a new file that takes the name ``path``; it says how many rows it wrote."""
    with new_file(path, replace=True) as place:
        rows = write(place)
    note(f"wrote {path}: {plural(rows, 'row')}")


def _show(
    summary: Summary,
    asked: Overcommit | None,
    as_json: bool,
    top: int | None,
    html: Path | None,
    force: bool,
) -> None:
    from estimator.fleet.fleet_sections import asked_words, fleet_json, fleet_sections
    from estimator.report.tables import make_console
    from estimator.report.text import Tables, print_sections

    if html is not None:
        require_extra("jinja2", "matplotlib")
        from estimator.fleet.fleet_page import fleet_page

        write_private(html, fleet_page(summary, asked), force)
        note(f"wrote {html}")
    if as_json:
        click.echo(json.dumps(fleet_json(summary, asked)))
        return
    console = make_console(sys.stdout)
    tables = Tables(top, None, ": --top 0 shows all")
    print_sections(fleet_sections(summary, asked), console, asked_words(summary), tables)


def _require(summary: Summary, min_coverage: float) -> None:
    """Exit with 6 where too few hosts are counted, or too little of their pages was read."""
    require_share(summary.read_share, min_coverage, " of the hosts counted")
    if 100 * summary.hosts_share < min_coverage:
        told = f"only {len(summary.hosts):,} of {len(summary.hosts) + summary.failed:,} hosts"
        say(f"ksm-estimator: {told} are counted; accept it with --min-coverage")
        sys.exit(EXIT_LOW_COVERAGE)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with snapshots a second and the remaining time; on a terminal only."""
    if quiet() or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("snapshots"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>8}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate="")

        def told(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "")

        yield told

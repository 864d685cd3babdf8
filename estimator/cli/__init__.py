"""The command line: arguments in, calls out."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from estimator._version import __version__
from estimator.cli import one_run
from estimator.cli.advise import advise
from estimator.cli.answers import answer_with_bound, show_prediction
from estimator.cli.compare import compare
from estimator.cli.coverage import require_coverage
from estimator.cli.fleet import fleet
from estimator.cli.forecast import forecast
from estimator.cli.help_topics import show_help
from estimator.cli.interrupts import interrupted, raise_on_signals
from estimator.cli.meanwhile import in_a_fork, worth_it
from estimator.cli.memory_watch import while_reading
from estimator.cli.metrics import metrics
from estimator.cli.options import (
    as_if_option,
    force_option,
    json_option,
    later_option,
    min_coverage_option,
    note,
    options,
    policy_options,
    quiet_option,
    snapshot_argument,
)
from estimator.cli.place import place, sketch
from estimator.cli.report import report
from estimator.cli.room import COUNTERS, IN_MEMORY, REPORT, max_memory_option, room_for
from estimator.cli.source import Source, source_options, target_options
from estimator.cli.streams import say, standard_streams
from estimator.cli.trend import trend
from estimator.cli.verify import verify
from estimator.cli.whatif import whatif
from estimator.errors import EXIT_INTERRUPTED, EstimatorError, TargetError, UsageError
from estimator.units import printable_lines

if TYPE_CHECKING:
    from estimator.ksm.hash_parts import Workroom
    from estimator.snapshot.gathered import Gathered
    from estimator.snapshot.snapshot import Snapshot

COMPLETE = "_KSM_ESTIMATOR_COMPLETE"
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


_answer = options(
    json_option,
    min_coverage_option,
)
_output = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, readable=False),
    metavar="NAME.ksm",
    help="The snapshot to make: a directory; NAME.ksm.tar: one file; -: the same on stdout.",
)


@click.group(context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="ksm-estimator")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def cli(debug: bool) -> None:
    """What would KSM save here, where, and at what cost? Answered without turning KSM on."""


@cli.command()
@source_options
@_output
@force_option
def collect(source: Source, output: Path | None, force: bool) -> None:
    """Read a kernel's memory into a snapshot."""
    if output is None:
        raise click.UsageError("name the snapshot to make with -o NAME.ksm")
    source.check()
    from estimator.snapshot.archive import STREAM
    from estimator.snapshot.store import check_output, write_snapshot

    check_output(output, replace=force)
    found = _collect(source)
    with while_reading(source.max_memory):
        write_snapshot(found, output, replace=force, two_cores=source.two_cores)
    if output != STREAM:
        note(f"wrote {output}; next: ksm-estimator predict {output}")


@cli.command()
@target_options
@json_option
@click.option(
    "--page-cost",
    is_flag=True,
    help="Measure what the steps of ksmd cost on this machine, for forecast and advise.",
)
def check(source: Source, as_json: bool, page_cost: bool) -> None:
    """Say in seconds what a target allows, what is missing, how long it will take."""
    from estimator.cli.show_findings import show

    if page_cost and not (source.live or source.procfs):
        raise UsageError("--page-cost measures this machine: with --live or --procfs")
    findings = source.findings()
    if page_cost:
        from estimator.cli.page_cost import add_page_cost

        add_page_cost(findings)
    show(findings, as_json)
    sys.exit(findings.exit_code)


@cli.command()
@snapshot_argument
@later_option
@policy_options
@as_if_option
@max_memory_option
@_answer
def predict(
    snapshot: Path,
    later: Path | None,
    max_memory: int | None,
    as_json: bool,
    min_coverage: float,
    **policy: Any,
) -> None:
    """Say what ksmd would do with a snapshot."""
    from estimator.snapshot.store import open_snapshots

    others = bool(policy["as_if"])
    need = IN_MEMORY if others else REPORT if as_json else COUNTERS
    with room_for(need, max_memory, in_parts=True) as allow:
        paths = [later, snapshot] if later else [snapshot]
        *second, first = open_snapshots(paths, others=others, stored=True, allow=allow)
        _answer_with(
            first, policy, as_json, min_coverage, second[0] if later else None, allow.parts
        )


@cli.command()
@source_options
@_output
@force_option
@policy_options
@as_if_option
@_answer
def run(
    source: Source,
    output: Path | None,
    force: bool,
    as_json: bool,
    min_coverage: float,
    **policy: Any,
) -> None:
    """collect and predict in one go; with -o the snapshot is kept for report, advise ..."""
    from estimator.snapshot.archive import STREAM

    if output == STREAM:
        raise click.UsageError("the answer goes to stdout: collect writes a snapshot there")
    source.check()
    if output is not None:
        from estimator.snapshot.store import check_output, write_snapshot

        check_output(output, replace=force)
    get_ready = partial(_import_answer, as_json)
    takes = (REPORT if as_json else COUNTERS).more_bytes(1, 1)
    if worth_it(source.core):
        found = in_a_fork(lambda: _collect(source, answers=takes), get_ready)
    else:
        found = _collect(source, answers=takes, meanwhile=get_ready)
    unwritten: TargetError | None = None
    if output is not None:
        try:
            write_snapshot(found, output, replace=force, two_cores=source.two_cores)
            note(f"wrote {output}; next: ksm-estimator report {output}")
        except TargetError as error:  # the answer is there all the same
            unwritten = error
    try:
        _answer_with(_as_snapshot(found, policy["as_if"]), policy, as_json, min_coverage)
    except SystemExit:  # answered, though from too little
        if unwritten is None:
            raise
    if unwritten is not None:
        raise unwritten
    if output is None and not as_json:
        note("the snapshot is not kept; with -o NAME.ksm report and advise can be asked as well")


def _collect(
    source: Source, *, answers: int = 0, meanwhile: Callable[[], None] = lambda: None
) -> Gathered | Snapshot:
    from estimator.cli.progress import progress_bar

    with while_reading(source.max_memory), progress_bar() as progress:
        return source.collect(progress, answers=answers, meanwhile=meanwhile)


def _import_answer(as_json: bool) -> None:
    """Import what ``_answer_with`` needs."""
    import estimator.ksm.predict

    if as_json:
        import estimator.report.as_json
    else:
        import estimator.report.tables
        import estimator.report.text  # noqa: F401


def _as_snapshot(found: Gathered | Snapshot, as_if: object) -> Snapshot:
    from estimator.snapshot.gathered import Gathered

    return found.snapshot(stored=not as_if) if isinstance(found, Gathered) else found


def _answer_with(
    snapshot: Snapshot,
    policy: dict[str, Any],
    as_json: bool,
    min_coverage: float,
    later: Snapshot | None = None,
    room: Workroom | None = None,
) -> None:
    import numpy as np

    from estimator.ksm.as_if import as_if
    from estimator.ksm.policy import Policy
    from estimator.ksm.predict import predict

    what = policy.pop("as_if")
    empty = room.empty if room else np.empty
    snapshot = as_if(snapshot, what, empty)
    later = as_if(later, what, empty) if later else None
    if snapshot.info.get("without_contents") and later is None:
        answer_with_bound(snapshot, Policy(**policy), as_json, min_coverage)
        return
    prediction = predict(snapshot, Policy(**policy), later=later, room=room)
    show_prediction(snapshot, prediction, as_json, later)
    require_coverage(prediction.coverage, min_coverage)


for command in (report, advise, whatif, forecast, compare, verify, fleet, metrics, show_help):
    cli.add_command(command)
for command in (sketch, place, trend):
    fleet.add_command(command)
for command in (*cli.commands.values(), *fleet.commands.values()):
    if command is not fleet:
        quiet_option(command)


def main() -> None:
    """The command line: failures become one line on stderr and an exit code (SystemExit)."""
    debug = "--debug" in sys.argv[1:]
    if not debug:  # what drgn has to say is in our own errors; a download shows its progress
        quiet = logging.StreamHandler(sys.stderr)
        quiet.setLevel(logging.CRITICAL + 1)
        logging.getLogger("drgn").addHandler(quiet)
    try:
        if instruction := os.environ.get(COMPLETE):
            sys.exit(_complete(instruction))
        try:
            with cli.make_context("ksm-estimator", sys.argv[1:]) as context:  # main() exits with 1
                cli.invoke(context)  # at a closed pipe
        finally:
            sys.stdout.flush()
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except EstimatorError as error:
        _fail_unless_interrupted(str(error), error.exit_code, debug)
    except click.UsageError as error:
        _fail(_usage_words(error), error.exit_code)
    except click.Abort:
        _fail("interrupted", EXIT_INTERRUPTED)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our stdout has gone: not our failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        told = f"internal error: {type(error).__name__}: {error}; see it with --debug"
        _fail_unless_interrupted(told, 1, debug)


def _usage_words(error: click.UsageError) -> str:
    """What is wrong with the command line, and where it is explained: one line."""
    message = " ".join(error.format_message().split()).rstrip(".")
    path = error.ctx.command_path if error.ctx else "ksm-estimator"
    told = message.removesuffix("?").replace("?)", ")")
    return f"{told[:1].lower()}{told[1:]}; see: {path} --help"


def _complete(instruction: str) -> int:
    """Do what the shell asks for completion: print its script, or what fits; exit code 0 or 1."""
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "ksm-estimator", COMPLETE, instruction)


def entry() -> NoReturn:
    """What the shell runs: ``main``, in a process of its own."""
    one_run.prepare()
    standard_streams()
    raise_on_signals()
    code = 0
    try:
        main()
    except SystemExit as done:
        code = int(done.code or 0)
    one_run.leave(code)


def _fail_unless_interrupted(message: str, exit_code: int, debug: bool) -> None:
    if interrupted():
        _fail("interrupted", EXIT_INTERRUPTED)
    _fail(message, exit_code, debug)


def _fail(message: str, exit_code: int, debug: bool = False) -> None:
    """End with one line; ``debug``: with the traceback of the exception that is being handled."""
    if debug:
        click.echo(printable_lines(traceback.format_exc()), err=True, nl=False)
    else:
        say(f"ksm-estimator: {message}")
    sys.exit(exit_code)

"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from estimator.cli.completion import from_processes
from estimator.cli.quantities import FiniteRange
from estimator.cli.streams import say
from estimator.ksm.policy import AS_IF

_QUIET = "quiet"
Command = TypeVar("Command", bound=Callable[..., Any])


def options(*parts: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several click options or arguments as one decorator, in the order of ``--help``."""

    def decorate(command: Command) -> Command:
        for part in reversed(parts):
            command = part(command)
        return command

    return decorate


def _user(value: str) -> int:
    """A user id, given as number or as name. Raises click.BadParameter for an unknown name."""
    import pwd  # not every system has it

    try:
        return int(value)
    except ValueError:
        pass
    try:
        return pwd.getpwnam(value).pw_uid
    except KeyError:
        raise click.BadParameter(f"{value!r} is no user of this machine; give the number") from None


min_coverage_option = click.option(
    "--min-coverage",
    type=FiniteRange(0, 100),
    default=95.0,
    metavar="PERCENT",
    help="Exit with 6 if less of the candidate pages could be read (default 95).",
)


snapshot_argument = click.argument(
    "snapshot", type=click.Path(path_type=Path, allow_dash=True, readable=False)
)
later_option = click.option(
    "--and",
    "later",
    type=click.Path(path_type=Path, readable=False),
    metavar="LATER.ksm",
    help="A second snapshot of the same system: what changed in between never merges.",
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object on stdout; its fields: docs/schemas of a clone.",
)
top_option = click.option(
    "--top",
    type=click.IntRange(min=0),
    metavar="N",
    help="Show so many rows of each table (default 10 or 15; 0: all).",
)
force_option = click.option("--force", is_flag=True, help="Replace what is there.")


def quiet_option(command: click.Command) -> None:
    """Give ``command`` -q: it says no more on stderr than why it failed."""

    def be_quiet(context: click.Context, option: click.Parameter, chosen: bool) -> None:
        if chosen:
            context.find_root().obj = _QUIET

    command.params.append(
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=be_quiet,
            help="No progress and no next steps on stderr, failures alone.",
        )
    )


def quiet() -> bool:
    """Whether -q is on the command line."""
    context = click.get_current_context(silent=True)
    return context is not None and context.find_root().obj == _QUIET


def note(message: str) -> None:
    """Say ``message`` on stderr, unless -q was given."""
    if not quiet():
        say(message)


def _scope(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--scope",
        type=click.Choice(["all", "enabled"]),
        default=default,
        help="all: as if every process had called prctl(PR_SET_MEMORY_MERGE); "
        f"enabled: the VMAs that are VM_MERGEABLE now (default {default}).",
    )


_who_and_how = options(
    click.option(
        "--pid",
        "pids",
        type=int,
        multiple=True,
        shell_complete=from_processes("pid"),
        help="Only this process. Each selector can be repeated; of several kinds all must fit.",
    ),
    click.option(
        "--comm",
        "comms",
        multiple=True,
        shell_complete=from_processes("comm"),
        help="Only processes of this name: 'worker*'.",
    ),
    click.option(
        "--cgroup",
        "cgroups",
        multiple=True,
        shell_complete=from_processes("cgroup"),
        help="Only this cgroup and those below it: 'system.slice/web*'.",
    ),
    click.option(
        "--uid",
        "uids",
        type=_user,
        metavar="USER",
        multiple=True,
        help="Only processes of this user: a number, or a name as on this machine.",
    ),
    click.option(
        "--max-page-sharing",
        type=int,
        metavar="N",
        help="How many mappings one KSM page may have; else as in the snapshot.",
    ),
    click.option(
        "--use-zero-pages/--no-use-zero-pages",
        default=None,
        help="Whether zero-filled pages go to the kernel's zero page; else as in the snapshot.",
    ),
    click.option(
        "--merge-across-nodes/--no-merge-across-nodes",
        default=None,
        help="Whether pages of different NUMA nodes merge; else as in the snapshot.",
    ),
)
html_option = click.option(
    "--html",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Write a page for a browser.",
)
as_if_option = click.option(
    "--as-if",
    type=click.Choice(list(AS_IF)),
    multiple=True,
    help="What if: shared memory were private, hugetlb pages (no-hugetlb) or pages of files "
    "(no-file) ordinary anonymous ones, no page huge (no-thp). Repeated: all at once. All but "
    "no-thp need a snapshot made with --contents all, or all,file.",
)
policy_options = options(_scope("all"), _who_and_how)
policy_options_of_today = options(_scope("enabled"), _who_and_how)

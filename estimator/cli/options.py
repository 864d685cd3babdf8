"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def options(*parts: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several click options or arguments as one decorator, in the order of ``--help``."""

    def decorate(command: Command) -> Command:
        for part in reversed(parts):
            command = part(command)
        return command

    return decorate


min_coverage_option = click.option(
    "--min-coverage",
    type=click.FloatRange(0, 100),
    default=95.0,
    metavar="PERCENT",
    help="Exit with 6 if less of the candidate pages could be read (default 95).",
)


def _scope(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--scope",
        type=click.Choice(["all", "enabled"]),
        default=default,
        help="all: as if every process had called prctl(PR_SET_MEMORY_MERGE); "
        f"enabled: the VMAs that are VM_MERGEABLE now (default {default}).",
    )


_who_and_how = options(
    click.option("--pid", "pids", type=int, multiple=True, help="Only this process. Repeatable."),
    click.option("--comm", "comms", multiple=True, help="Only processes of this name."),
    click.option("--cgroup", "cgroups", multiple=True, help="Only this cgroup and those below it."),
    click.option("--uid", "uids", type=int, multiple=True, help="Only processes of this user id."),
    click.option("--max-page-sharing", type=int, metavar="N", help="Else as in the snapshot."),
    click.option("--use-zero-pages/--no-use-zero-pages", default=None, help="Else as there."),
    click.option("--merge-across-nodes/--no-merge-across-nodes", default=None),
)
policy_options = options(_scope("all"), _who_and_how)
policy_options_of_today = options(_scope("enabled"), _who_and_how)

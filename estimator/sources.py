"""What a command reads: the options that name a target, and the snapshot made from it.

The target is always named. If it can't be read, that is the answer: no other one is tried.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from estimator.care import Pace, lower_priority
from estimator.errors import UsageError
from estimator.options import Command, options

if TYPE_CHECKING:
    from estimator.check import Findings
    from estimator.collect import Progress
    from estimator.snapshot import Snapshot


@dataclass(frozen=True)
class Source:
    """The target options of one command line; exactly one of the first four is set."""

    core: Path | None
    live: bool
    qemu: str | None
    procfs: bool
    symbols: tuple[Path, ...]
    architecture: str | None
    seed: int
    rate: float | None

    def check(self) -> None:
        """Raise UsageError unless exactly one target is named."""
        named = [name for name in TARGETS if getattr(self, name)]
        if not named:
            raise UsageError("name the target: --live, --core VMCORE, --qemu SOCKET or --procfs")
        if len(named) > 1:
            raise UsageError(f"name one target, not {' and '.join(f'--{name}' for name in named)}")

    def collect(self, progress: Progress) -> Snapshot:
        """Read the target into a snapshot; raises the errors of opening and reading it."""
        self.check()
        pace = Pace(self.rate)
        if self.core is None:
            lower_priority()
        if self.procfs:
            from estimator.procfs.collect import collect_procfs

            return collect_procfs(seed=self.seed, progress=progress, pace=pace)
        from estimator.collect import collect
        from estimator.kernel.running import open_live, open_qemu
        from estimator.kernel.target import open_core

        if self.core is not None:
            target = open_core(self.core, self.symbols, self.architecture)
        elif self.qemu is not None:
            target = open_qemu(self.qemu, self.symbols)
        else:
            target = open_live(self.symbols)
        return collect(target, seed=self.seed, progress=progress, pace=pace)

    def findings(self) -> Findings:
        """What the target allows; raises UsageError if it is not one crash dump."""
        from estimator.kernel.check_core import check_core

        self.check()
        if self.core is None:
            raise UsageError("only crash dumps can be checked: --core VMCORE")
        return check_core(self.core, self.symbols, self.architecture)


TARGETS = ("live", "core", "qemu", "procfs")

_options = options(
    click.option("--live", is_flag=True, help="This machine's kernel, through /proc/kcore."),
    click.option("--core", type=click.Path(path_type=Path), metavar="VMCORE", help="A crash dump."),
    click.option(
        "--qemu",
        metavar="SOCKET",
        help="A guest of this machine: the socket of a QMP monitor that nobody else uses.",
    ),
    click.option(
        "--procfs",
        is_flag=True,
        help="This machine through /proc/PID/pagemap and mem: without symbols and /proc/kcore.",
    ),
    click.option(
        "--symbols",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="VMLINUX",
        help="Its vmlinux with debug information; else looked for by build-id in the usual places.",
    ),
    click.option(
        "--architecture",
        type=click.Choice(["x86_64", "aarch64"]),
        help="Of a dump that does not say it.",
    ),
    click.option("--seed", type=int, default=0, help="Seed of the hash (default 0)."),
    click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="MB/S",
        help="Read a running system's memory no faster than this.",
    ),
)


def source_options(command: Command) -> Command:
    """Give ``command`` the options that name a target; it gets them as ``source``."""

    @functools.wraps(command)
    def with_source(**arguments: Any) -> Any:
        named = {field.name: arguments.pop(field.name) for field in fields(Source)}
        return command(source=Source(**named), **arguments)

    decorate: Callable[[Any], Any] = _options
    decorated: Command = decorate(with_source)
    return decorated

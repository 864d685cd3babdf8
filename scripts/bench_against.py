"""Every command side by side with another version, turn by turn: is this one slower?"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from estimator.snapshot.store import write_snapshot
from scripts.bench_dump import dumped, fork_server
from scripts.bench_measure import best, peak_of, run, warm
from scripts.bench_predict import gathered
from tests.lab.kernels import ensure_tools, fetch_kernel

_OURS = str(Path(sys.executable).with_name("ksm-estimator"))
_MILLION = 1_000_000
_SMALL_GIB = 0.25
_HEADINGS = ("", "this s", "that s", "this / that", "by medians", "this MiB", "that MiB")


@dataclass(frozen=True)
class Command:
    """What is timed. ``makes_snapshot``: it needs ``-o`` and a place of its own each time."""

    name: str
    arguments: tuple[str, ...]
    makes_snapshot: bool = False

    def line(self, program: str, place: Path) -> list[str]:
        """The command line of one version; what it makes goes to ``place``."""
        made = ["--force", "-o", str(place)] if self.makes_snapshot else []
        return [program, *self.arguments, *made]


def bench_against(wheel: Path, cores: Sequence[Path], millions: Sequence[int], rounds: int) -> None:
    """Print the table of all commands on ``cores`` and synthetic snapshots.

    Without ``cores`` on the dump of a small guest, which is start-up above all; on this machine
    itself as well where we are root.
    """
    table = Table(title=f"this version, and {wheel.name}")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading else "left")
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        theirs = stack.enter_context(_installed(wheel))
        if not cores:
            ensure_tools()
            small = dumped(fetch_kernel("6.12"), fork_server(_SMALL_GIB))
            cores = (stack.enter_context(small),)
        for command in _commands(Path(scratch), cores, millions):
            table.add_row(command.name, *_measure(command, theirs, Path(scratch), rounds))
    Console(width=130).print(table)


def _commands(scratch: Path, cores: Sequence[Path], millions: Sequence[int]) -> Iterator[Command]:
    """Each is ready to run when it comes."""
    for core in cores:
        warm(core)
        for name in ("check", "run"):
            yield Command(f"{name} --core {core.name}", (name, "--core", str(core)))
        collect = ("collect", "--core", str(core))
        yield Command(f"collect --core {core.name}", collect, makes_snapshot=True)
    if os.geteuid() == 0:
        yield Command("collect --procfs", ("collect", "--procfs"), makes_snapshot=True)
    for number in millions:
        snapshot = scratch / f"{number}.ksm"
        write_snapshot(gathered(number * _MILLION), snapshot)
        for name in ("predict", "report", "advise", "forecast"):
            yield Command(f"{name}, {number} million mappings", (name, str(snapshot)))


def _measure(command: Command, theirs: str, scratch: Path, rounds: int) -> list[str]:
    lines = [command.line(program, scratch / "made.ksm") for program in (_OURS, theirs)]
    if subprocess.run(lines[1], capture_output=True).returncode:
        return [f"{run(lines[0]).seconds:.2f}", "can't"]
    runs = [[run(line) for line in lines] for _ in range(rounds)]
    ours, others = (best(list(of_one)).seconds for of_one in zip(*runs, strict=True))
    medians = [
        statistics.median(each.seconds for each in of_one) for of_one in zip(*runs, strict=True)
    ]
    memory = [f"{peak_of(line).anonymous_bytes / 1024**2:.0f}" for line in lines]
    ratios = [f"{ours / others:.2f}", f"{medians[0] / medians[1]:.2f}"]
    return [f"{ours:.2f}", f"{others:.2f}", *ratios, *memory]


@contextmanager
def _installed(wheel: Path) -> Iterator[str]:
    """The other version's program, in an environment of its own."""
    os.environ.pop("PYTHONPATH", None)  # with it, theirs would import ours
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        quiet = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([f"{directory}/bin/pip", "install", *quiet, str(wheel)], check=True)
        yield f"{directory}/bin/ksm-estimator"

"""A dump of arm64 against one of x86-64, read on this machine: what a byte of each costs."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from statistics import median

from rich.console import Console
from rich.table import Table

from scripts.bench_dump import PROGRAM, START_UP, dumped, fork_server
from scripts.bench_measure import Run, run, warm
from tests.lab.kernels import ensure_tools, fetch_kernel, machine_of

_SERIES = ("6.12", "6.12-arm64")  # pages of 4 KiB, and the same processes in them


def bench_arch(gib: float, rounds: int) -> None:
    """Print what a `run` on guests of ``gib`` takes, without its start-up, for each byte.

    The dumps take turns, and the medians of ``rounds`` turns are compared: how fast a machine is
    that others use changes, and CPU time changes less with it.
    """
    kernels = {}
    for series in _SERIES:
        ensure_tools(machine_of(series))
        kernels[series] = fetch_kernel(series)
    ours: dict[str, list[Run]] = {series: [] for series in _SERIES}
    starts: dict[str, list[Run]] = {series: [] for series in _SERIES}
    with ExitStack() as stack:
        dumps = {
            series: stack.enter_context(dumped(kernel, fork_server(gib)))
            for series, kernel in kernels.items()
        }
        for turn in range(rounds):
            for series in _SERIES if turn % 2 else reversed(_SERIES):
                core, symbols = str(dumps[series]), str(kernels[series].vmlinux)
                warm(dumps[series])
                command = [PROGRAM, "run", "--core", core, "--symbols", symbols, "--json"]
                ours[series].append(run(command))
                starts[series].append(run([sys.executable, "-c", START_UP, core, symbols]))
    table = Table(title=f"ksm-estimator run --core, guests of {gib:g} GiB, medians of {rounds}")
    for column in ("", "MB read", "run s", "start-up s", "ns per KB", "CPU ns per KB"):
        table.add_column(column, justify="right" if column else "left")
    costs = {}
    for series, runs in ours.items():
        read_bytes = _frames(runs[0]) * kernels[series].page_bytes
        pairs = list(zip(runs, starts[series], strict=True))
        beyond = [ours.seconds - start.seconds for ours, start in pairs]
        beyond_cpu = [ours.cpu_seconds - start.cpu_seconds for ours, start in pairs]
        costs[series] = [1e12 * median(seconds) / read_bytes for seconds in (beyond, beyond_cpu)]
        table.add_row(
            kernels[series].release,
            f"{read_bytes / 1e6:,.0f}",
            f"{median(r.seconds for r in runs):.2f}",
            f"{median(r.seconds for r in starts[series]):.2f}",
            *(f"{cost:.0f}" for cost in costs[series]),
        )
    console = Console(width=130)
    console.print(table)
    first, other = (costs[series] for series in _SERIES)
    console.print(
        f"arm64 / x86-64, for each byte: {other[0] / first[0]:.2f}, "
        f"of CPU time {other[1] / first[1]:.2f}"
    )


def _frames(finished: Run) -> int:
    return int(json.loads(finished.output)["physical"]["frames_before"])

"""What answers from a snapshot hold at their peak, and what hosts of other sizes would take."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from estimator.cli.room import ADVICE, COUNTERS, FORECAST, REPORT, Need
from estimator.snapshot.store import write_snapshot
from scripts.bench_measure import peak_of
from scripts.bench_predict import gathered

_COMMANDS: dict[tuple[str, ...], Need] = {
    ("predict",): COUNTERS,
    ("predict", "--json"): REPORT,
    ("report",): REPORT,
    ("advise",): ADVICE,
    ("forecast",): FORECAST,
}
_HOSTS_GIB = (64, 512, 2048)
_PAGE_BYTES, _MIB = 4096, 1 << 20


def bench_memory(mappings: tuple[int, ...]) -> None:
    """Print two tables for snapshots of so many million ``mappings``, each of a frame of its own.

    The peaks, beside what the commands ask for before they read rows; and the straight line through
    the peaks, for hosts whose memory is anonymous pages alone.
    """
    peaks: dict[tuple[str, ...], list[int]] = {command: [] for command in _COMMANDS}
    measured = Table("command", "million mappings", "MiB at the peak", "MiB asked for")
    with tempfile.TemporaryDirectory() as scratch:
        for millions in mappings:
            path, rows = Path(scratch) / f"{millions}.ksm", millions * 1_000_000
            write_snapshot(gathered(rows, frames_per_mapping=1.0), path)
            for command, need in _COMMANDS.items():
                program = Path(sys.executable).with_name("ksm-estimator")
                peak = peak_of([str(program), *command, str(path)]).anonymous_bytes
                peaks[command].append(peak)
                asked = need.bytes_for(rows, rows) // _MIB
                numbers = (str(millions), f"{peak / _MIB:,.0f}", f"{asked:,}")
                measured.add_row(" ".join(command), *numbers)
    console = Console(width=100)
    console.print(measured)
    if len(mappings) > 1:
        console.print(_extrapolated(mappings, peaks))


def _extrapolated(mappings: tuple[int, ...], peaks: dict[tuple[str, ...], list[int]]) -> Table:
    hosts = (f"{gib} GiB" for gib in _HOSTS_GIB)
    table = Table("command", "bytes per mapping", *hosts, title="MiB, extrapolated")
    for command, found in peaks.items():
        each, fixed = np.polyfit([n * 1_000_000 for n in mappings], found, 1)
        of_hosts = (fixed + each * (gib << 30) / _PAGE_BYTES for gib in _HOSTS_GIB)
        table.add_row(" ".join(command), f"{each:.0f}", *(f"{n / _MIB:,.0f}" for n in of_hosts))
    return table

"""`collect --procfs` on this machine, beside what copying and hashing alone would take."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from xxhash import xxh3_64_intdigest

from estimator.snapshot.store import open_snapshot
from scripts.bench_measure import best, median_ratio, peak_bytes, run

_BIN = Path(sys.executable).parent
_PAGE_SIZE = 4096
_COPIED_BYTES = 1 << 20
_HASHED_BYTES = 1 << 28
_HEADINGS = (
    *(
        "GB",
        "collect s",
        "collect --near / that: s, CPU s",
        "CPU s",
        "start-up s",
        "GB/s",
        "GB/s beyond start-up",
    ),
    *("GB/s beyond start-up", "copying GB/s", "hashing GB/s"),
    *("beyond start-up / both alone", "anonymous MiB"),
)


def bench_procfs(gib: float, rounds: int) -> None:
    """Print the table for ``gib`` of anonymous memory, filled and held still on this machine."""
    table = Table(title=f"ksm-estimator collect --procfs, {gib:g} GiB")
    for column in ("", *_HEADINGS):
        table.add_column(column, justify="right" if column else "left")
    for name, processes, huge in (
        ("1 process, small pages", 1, False),
        ("1 process, huge pages", 1, True),
        ("50 processes, small pages", 50, False),
    ):
        with _filled(gib, processes, huge) as pids:
            table.add_row(name, *_measure(pids, rounds))
    Console(width=150).print(table)


def _measure(pids: list[int], rounds: int) -> list[str]:
    ours, nears, starts, copying, hashing = [], [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(_BIN / "ksm-estimator"), "collect", "--procfs", "-o"]
        for number in range(rounds):
            path = Path(scratch) / f"{number}.ksm"
            ours.append(run([*command, str(path)]))
            nears.append(run([*command, str(Path(scratch) / f"{number}.near.ksm"), "--near"]))
            starts.append(run([sys.executable, "-c", _START_UP]))
            copying.append(_copying(pids))
            hashing.append(_hashing())
        memory = peak_bytes([*command, str(Path(scratch) / "watched.ksm")])
        hashed = int(open_snapshot(path).frames["hash"].notna().sum())
    fastest, start_up = best(ours), best(starts).seconds
    giga = hashed * _PAGE_SIZE / 1e9
    beyond = giga / (fastest.seconds - start_up)
    copied, digested = max(copying), max(hashing)
    return [
        f"{giga:.2f}",
        f"{fastest.seconds:.2f}",
        median_ratio(nears, ours),
        f"{fastest.cpu_seconds:.2f}",
        f"{start_up:.2f}",
        f"{giga / fastest.seconds:.1f}",
        f"{beyond:.1f}",
        f"{copied:.1f}",
        f"{digested:.1f}",
        f"{beyond / (1 / (1 / copied + 1 / digested)):.2f}",
        f"{memory / 1024**2:.0f}",
    ]


_START_UP = """
import estimator.cli, estimator.procfs.collect, estimator.cli.progress, estimator.snapshot.store
"""


def _copying(pids: list[int]) -> float:
    """Reading the big mappings of ``pids`` through /proc/PID/mem on one core, in GB/s."""
    buffer = mmap.mmap(-1, _COPIED_BYTES)
    copied, started = 0, time.perf_counter()
    for pid in pids:
        file = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        start, end = _biggest(pid)
        for address in range(start, end, _COPIED_BYTES):
            copied += os.preadv(file, [memoryview(buffer)[: end - address]], address)
        os.close(file)
    return copied / (time.perf_counter() - started) / 1e9


def _biggest(pid: int) -> tuple[int, int]:
    maps = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-p", Path(f"/proc/{pid}/maps").read_text(), re.M)
    ranges = [(int(start, 16), int(end, 16)) for start, end in maps]
    return max(ranges, key=lambda found: found[1] - found[0])


def _hashing() -> float:
    """Hashing memory of our own, page by page on one core, in GB/s."""
    rows = np.ones((_HASHED_BYTES // _PAGE_SIZE, _PAGE_SIZE), np.uint8)
    started = time.perf_counter()
    np.fromiter(map(xxh3_64_intdigest, rows, repeat(0)), np.uint64, len(rows))  # type: ignore[arg-type]
    return _HASHED_BYTES / (time.perf_counter() - started) / 1e9


@contextmanager
def _filled(gib: float, processes: int, huge: bool) -> Iterator[list[int]]:
    """Processes with ``gib`` of anonymous memory together; they end when their stdin is closed."""
    pages = int(gib * (1 << 30)) // _PAGE_SIZE // processes
    command = [sys.executable, "-c", _FILL, str(processes), str(pages), str(int(huge))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as filler:
        assert filler.stdout is not None
        yield [int(filler.stdout.readline()) for _ in range(processes)]


_FILL = """
import mmap, os, sys
import numpy as np
processes, pages, huge = map(int, sys.argv[1:])
for number in range(processes):
    if number == processes - 1 or os.fork() == 0:
        break
area = mmap.mmap(-1, pages * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
np.frombuffer(area, np.uint64).reshape(pages, 512)[:] = (np.arange(pages) + number * pages)[:, None]
os.write(1, b"%d\\n" % os.getpid())
sys.stdin.read()
"""

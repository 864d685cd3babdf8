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
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from xxhash import xxh3_64_intdigest

from estimator.collect.page_room import PageRoom
from estimator.collect.workers import forked
from estimator.snapshot.store import open_snapshot
from scripts.bench_measure import Peak, best, median_ratio, peak_of, run

_BIN = Path(sys.executable).parent
_PAGE_SIZE = 4096
_COPIED_BYTES = 1 << 20
_HASHED_BYTES = 1 << 28
_HEADINGS = (
    *("GB", "collect s", "CPU s", "start-up s", "GB/s beyond start-up"),
    *("collect --near / collect: s, CPU s", "copying GB/s", "hashing GB/s"),
    *("both on two cores GB/s", "beyond start-up / that", "anonymous MiB"),
)


@dataclass(frozen=True)
class Measured:
    """``near_ratio``: collect --near / collect: seconds, CPU seconds. Speeds in GB/s.

    ``both``: copying and hashing alone, by two processes.
    """

    giga: float
    seconds: float
    cpu_seconds: float
    start_up_seconds: float
    near_ratio: str
    copying: float
    hashing: float
    both: float
    peak: Peak

    @property
    def beyond(self) -> float:
        """GB/s of the command without its start-up."""
        return self.giga / (self.seconds - self.start_up_seconds)

    def row(self) -> list[str]:
        """The columns ``_HEADINGS``."""
        numbers = (self.giga, self.seconds, self.cpu_seconds, self.start_up_seconds)
        speeds = (self.copying, self.hashing, self.both)
        return [
            *(f"{number:.2f}" for number in numbers),
            f"{self.beyond:.1f}",
            self.near_ratio,
            *(f"{speed:.1f}" for speed in speeds),
            f"{self.beyond / self.both:.2f}",
            f"{self.peak.anonymous_bytes / 1024**2:.0f}",
        ]


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
        table.add_row(name, *measure_procfs(gib, rounds, processes, huge).row())
    Console(width=150).print(table)


def measure_procfs(gib: float, rounds: int, processes: int = 1, huge: bool = False) -> Measured:
    """``gib`` in so many ``processes`` together, in pages that are ``huge`` or small."""
    with filled(gib, processes, huge) as pids:
        return _measure(pids, rounds)


def _measure(pids: list[int], rounds: int) -> Measured:
    ours, nears, starts, copying, hashing, both = [], [], [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(_BIN / "ksm-estimator"), "collect", "--procfs", "-o"]
        for number in range(rounds):
            path = Path(scratch) / f"{number}.ksm"
            ours.append(run([*command, str(path)]))
            nears.append(run([*command, str(Path(scratch) / f"{number}.near.ksm"), "--near"]))
            starts.append(run([sys.executable, "-c", _START_UP]))
            copying.append(_copying(pids))
            hashing.append(_hashing())
            both.append(_both(pids))
        peak = peak_of([*command, str(Path(scratch) / "watched.ksm")])
        hashed = int(open_snapshot(path).frames["hash"].notna().sum())
    fastest = best(ours)
    return Measured(
        giga=hashed * _PAGE_SIZE / 1e9,
        seconds=fastest.seconds,
        cpu_seconds=fastest.cpu_seconds,
        start_up_seconds=best(starts).seconds,
        near_ratio=median_ratio(nears, ours),
        copying=max(copying),
        hashing=max(hashing),
        both=max(both),
        peak=peak,
    )


_START_UP = """
from estimator.cli import one_run
one_run.prepare()
import estimator.procfs.collect, estimator.cli.progress, estimator.snapshot.store
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


def _both(pids: list[int]) -> float:
    """Copying and hashing the same, by two processes, each with a half of it, in GB/s."""

    copied = np.zeros(1)

    def work(number: int) -> None:
        room = PageRoom(_COPIED_BYTES // _PAGE_SIZE, _PAGE_SIZE)
        for pid in pids:
            file = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
            start, end = _biggest(pid)
            for address in range(start + number * _COPIED_BYTES, end, 2 * _COPIED_BYTES):
                got = os.preadv(file, [room.memory[: end - address]], address)
                digests = map(xxh3_64_intdigest, room.whole[: got // _PAGE_SIZE], repeat(0))
                np.fromiter(digests, np.uint64, got // _PAGE_SIZE)
                copied[0] += got
            os.close(file)

    started = time.perf_counter()
    with forked(1, lambda: work(1)):
        work(0)
    return 2 * float(copied[0]) / (time.perf_counter() - started) / 1e9


def _hashing() -> float:
    """Hashing memory of our own, page by page on one core, in GB/s."""
    rows = np.ones((_HASHED_BYTES // _PAGE_SIZE, _PAGE_SIZE), np.uint8)
    started = time.perf_counter()
    np.fromiter(map(xxh3_64_intdigest, rows, repeat(0)), np.uint64, len(rows))  # type: ignore[arg-type]
    return _HASHED_BYTES / (time.perf_counter() - started) / 1e9


@contextmanager
def filled(gib: float, processes: int, huge: bool) -> Iterator[list[int]]:
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

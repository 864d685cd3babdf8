"""Running a command and watching it: seconds, and its peak of anonymous memory."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Run:
    """A finished command: wall-clock seconds, CPU seconds of all its processes, and stdout."""

    seconds: float
    cpu_seconds: float
    output: str


def run(command: list[str]) -> Run:
    """Run ``command`` to its end, with its output in a file; exits if it fails."""
    with tempfile.TemporaryFile() as output:
        started, used = time.perf_counter(), _cpu_seconds()
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE)
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - used
        if done.returncode:
            sys.exit(f"{done.stderr.decode(errors='replace')}bench: {' '.join(command)} failed")
        output.seek(0)
        return Run(seconds, cpu_seconds, output.read().decode())


def _cpu_seconds() -> float:
    """Of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def warm(path: Path) -> None:
    """Bring the file into the page cache, before a time is measured: systems reclaim."""
    piece = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass


def best(runs: list[Run]) -> Run:
    """The fastest."""
    return min(runs, key=lambda r: r.seconds)


def median_ratio(ours: list[Run], others: list[Run]) -> str:
    """Of the seconds and of the CPU seconds of runs that took turns: medians, "1.20, 1.17"."""
    seconds = median(a.seconds / b.seconds for a, b in zip(ours, others, strict=True))
    cpu = median(a.cpu_seconds / b.cpu_seconds for a, b in zip(ours, others, strict=True))
    return f"{seconds:.2f}, {cpu:.2f}"


@dataclass(frozen=True)
class Peak:
    """The most ``anonymous_bytes`` that all processes held at once; the most of each, by pid."""

    anonymous_bytes: int
    of_workers: dict[int, int]


def peak_of(command: list[str]) -> Peak:
    """Peak memory of ``command`` that no file backs. Watching it slows it down: not for times."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most, of_workers = 0, dict[int, int]()
    while process.poll() is None:
        now = {pid: _unmapped_bytes(pid) for pid in (process.pid, *_children(process.pid))}
        most = max(most, sum(now.values()))
        of_workers |= {pid: max(size, of_workers.get(pid, 0)) for pid, size in now.items()}
        time.sleep(_POLL_SECONDS)
    return Peak(most, of_workers)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _unmapped_bytes(pid: int) -> int:
    """What is not backed by a file: pages shared with others count in proportion."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    kib = re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", text, re.MULTILINE)
    return sum(map(int, kib)) * 1024

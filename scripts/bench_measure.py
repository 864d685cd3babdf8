"""Running a command and watching it: seconds, and its peak of anonymous memory."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Run:
    """A finished command: wall-clock seconds, peak anonymous bytes (children included), stdout."""

    seconds: float
    anonymous_bytes: int
    output: str


def run(command: list[str]) -> Run:
    """Run ``command`` to its end; exits if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        time.sleep(_POLL_SECONDS)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"bench: {' '.join(command)} failed")
    return Run(seconds, peak, process.stdout.read())


def best(runs: list[Run]) -> Run:
    """The fastest; with the highest peak of all."""
    fastest = min(runs, key=lambda r: r.seconds)
    return Run(fastest.seconds, max(r.anonymous_bytes for r in runs), fastest.output)


def _anonymous_bytes(pid: int) -> int:
    """``Anonymous`` of smaps, of a process and its children; pages shared by fork count once."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        total = _field(pid, "Anonymous")
        return total + sum(_field(int(child), "Private_Dirty") for child in children)
    except (OSError, AttributeError):
        return 0


def _field(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0

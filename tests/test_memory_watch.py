"""Memory that gets short while a system is read: it ends with a line, and leaves nothing behind."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from estimator.cli import memory_watch
from estimator.cli.memory_watch import while_reading
from estimator.collect.budget import mib, needed_bytes
from estimator.collect.memory_room import Room
from estimator.errors import ResourceError

needs_procfs = pytest.mark.skipif(
    platform.system() != "Linux" or os.geteuid() != 0, reason="--procfs is for root on Linux"
)
LEAST_BYTES = needed_bytes(0, running=False)
HANGS_SECONDS = 300
# by 1 MB/s reading this test's own process never ends
COLLECT = """
import runpy, sys
from estimator.cli import memory_watch
from estimator.collect import load
from estimator.collect.memory_room import Room
from estimator.procfs import collect
pace, reads = load.Pace.__call__, []
def tell(self, read_bytes):
    reads.append(read_bytes)
    pace(self, read_bytes)
load.Pace.__call__ = tell
memory_watch.memory_room = lambda: Room((1 if reads else 1 << 10) << 20, "this machine")
memory_watch._held_bytes = lambda: (1 << 40) * bool(reads)
everything, pid = collect.read_processes, int(sys.argv[1])
collect.read_processes = lambda: ([p for p in everything()[0] if p.pid == pid], 0)
sys.argv = ["estimator", "collect", "--procfs", "--rate", "1", *sys.argv[2:]]
runpy.run_module("estimator", run_name="__main__")
"""


def test_what_is_held_counts() -> None:
    held = memory_watch._held_bytes()
    assert held > 1 << 20
    with while_reading(held + (1 << 30)):
        time.sleep(0.2)
    taken = np.ones(LEAST_BYTES, np.uint8)
    limit = LEAST_BYTES + held // 2
    with (
        pytest.raises(ResourceError, match=rf"^stopped: .* --max-memory {mib(limit)}M"),
        while_reading(limit),
    ):
        time.sleep(HANGS_SECONDS)
    assert taken.all()


def test_less_than_any_system_takes_is_left_to_who_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "_held_bytes", lambda: LEAST_BYTES)
    with while_reading(1 << 20):
        time.sleep(0.2)


def test_room_that_is_left_or_not_known_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (None, Room(1 << 30, "this machine")):
        monkeypatch.setattr(memory_watch, "memory_room", lambda room=room: room)
        with while_reading(None):
            time.sleep(0.2)


@needs_procfs
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "this machine has room for 1 MiB more only"),
        (("--max-memory", "8G"), "it takes more memory than --max-memory 8192M"),
    ],
    ids=["the machine's", "our own limit"],
)
def test_nothing_is_left_behind(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COLLECT, str(os.getpid()), "-o", str(tmp_path / "a.ksm")]
    # a worker that goes on would keep stderr open
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=HANGS_SECONDS
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"ksm-estimator: stopped: {said}; ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_looks_that_cost_much_are_fewer() -> None:
    """As on an emulated CPU, where the watching would take a part of a core that is seen."""
    looks = []

    def slow() -> None:
        looks.append(time.thread_time())
        while time.thread_time() < looks[-1] + 0.01:
            pass

    with memory_watch.watched(slow):
        time.sleep(1.2)
    assert 1 <= len(looks) <= 3

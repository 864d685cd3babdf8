"""What --max-memory of predict, report and advise promises, and what is asked without it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from estimator.cli import room
from estimator.cli.room import COUNTERS, Need, room_for
from estimator.collect import budget
from estimator.collect.memory_room import Room
from estimator.errors import ResourceError, UsageError
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.commands import HOME, estimator
from tests.systems import fork_server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_snapshot(fork_server(), tmp_path / "workers.ksm")
    return tmp_path / "workers.ksm"


@pytest.mark.parametrize(
    "command", [["predict"], ["report"], ["report", "--json"], ["report", "--why"], ["advise"]]
)
def test_less_than_is_needed_is_refused_in_one_line_that_says_how_much(
    path: Path, command: list[str]
) -> None:
    refused = estimator(*command, path, "--max-memory", "100M")
    assert refused.returncode == 2
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert "23,684 mappings of 18,884 frames may take" in line
    assert "more than --max-memory 100M; --max-memory " in line
    enough = line.partition("; --max-memory ")[2].partition(",")[0]
    arguments = [*command, str(path), "--max-memory", enough]  # a fork would have our memory, too
    allowed = subprocess.run(
        [sys.executable, "-m", "estimator", *arguments], env=HOME, capture_output=True, text=True
    )
    assert (allowed.returncode, allowed.stderr) == (0, "")
    assert allowed.stdout == estimator(*command, path).stdout


def test_without_it_the_room_of_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "memory_room", lambda: Room(1 << 30, "this machine"))
    with room_for(COUNTERS, None) as allow:
        allow(1_000_000, 1_000_000)
        with pytest.raises(ResourceError, match=r"this machine has room .* --max-memory \d+M$"):
            allow(1 << 30, 1 << 30)


def test_two_snapshots_count_together() -> None:
    need = Need(per_mapping=10, per_frame=10)
    with room_for(need, need.bytes_for(1500, 1500)) as allow:
        allow(1000, 1000)
        with pytest.raises(UsageError, match="2,000 mappings of 2,000 frames"):
            allow(1000, 1000)


def test_the_numbers_come_before_any_row_is_read(path: Path) -> None:
    (path / "mappings.parquet").write_bytes(b"")
    with pytest.raises(Exception, match="can't be read"):
        open_snapshot(path, allow=lambda mappings, frames: None)
    write_snapshot(fork_server(), path, replace=True)
    asked = []
    found = open_snapshot(path, allow=lambda *numbers: asked.append(numbers))
    assert asked == [(len(found.mappings), len(found.frames))]


def test_beyond_the_limit_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with room_for(COUNTERS, 300 << 20) as allow:
        allow(1000, 1000)
        monkeypatch.setattr(room, "own_bytes", lambda: 301 << 20)
        with pytest.raises(ResourceError, match=r"stopped: .* more memory than --max-memory 300M"):
            time.sleep(20)
    assert signal.getsignal(signal.SIGUSR1) is before

"""What --max-memory of predict, report and advise promises, and what is asked without it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from estimator.cli import on_disk, room
from estimator.cli.room import COUNTERS, IN_PARTS, PART, Need, room_for
from estimator.collect import budget
from estimator.collect.memory_room import Room, own_bytes
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


def test_with_less_than_the_whole_needs_it_goes_in_parts() -> None:
    rows = 10_000_000
    with room_for(COUNTERS, 600 << 20) as allow, pytest.raises(UsageError, match="; --max-memory"):
        allow(rows, rows)
    with room_for(COUNTERS, COUNTERS.bytes_for(rows, rows), in_parts=True) as allow:
        assert allow(rows, rows) is None
        assert allow.parts is None
    limit = IN_PARTS.bytes_for(rows, rows) + PART.more_bytes(1_000_000, 1_000_000)
    with room_for(COUNTERS, limit, in_parts=True) as allow:
        assert allow(rows, rows) is not None
        assert allow.parts is not None
        assert allow.parts.fits(1_000_000, 1_000_000)
        assert not allow.parts.fits(1_000_000, 1_000_001)
        with pytest.raises(UsageError, match=r"equal pages: .* may take .*; --max-memory \d+M"):
            allow.parts.require(2_000_000, 2_000_000, "equal pages")


def test_what_is_told_to_be_enough_for_parts_is() -> None:
    rows = 10_000_000
    limit, told = 1 << 20, pytest.raises(UsageError)
    with room_for(COUNTERS, limit, in_parts=True) as allow, told as refused:
        allow(rows, rows)
    enough = int(str(refused.value).partition("; --max-memory ")[2].partition("M,")[0])
    with room_for(COUNTERS, enough << 20, in_parts=True) as allow:
        assert allow(rows, rows) is not None


def test_arrays_lie_on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(on_disk, "_file_system", lambda directory: "ext4")
    empty = on_disk.arrays_on_disk()
    before = own_bytes()
    array = empty(8 << 20, np.int32)
    array[:] = 7
    assert own_bytes() - before < 8 << 20  # of 32 MiB
    assert int(array.sum()) == 7 * (8 << 20)
    assert list(tmp_path.iterdir()) == []
    assert len(empty(0, np.uint8)) == 0
    with pytest.raises(ResourceError, match=r"has no room for .*; name a larger disk"):
        empty(1 << 55, np.uint8)


def test_what_is_memory_is_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(on_disk, "_file_system", lambda directory: "tmpfs")
    with pytest.raises(UsageError, match="is in memory; name a directory on a disk"):
        on_disk.arrays_on_disk()


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

"""An interrupt may come with any line of the writing: what is there afterwards is whole."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType

import pytest

from estimator.cli import private_file
from estimator.snapshot import archive, private, store
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.each_line import ended_by
from tests.systems import fork_server

WRITING = {module.__file__ for module in (archive, private, private_file, store)}


@pytest.fixture(autouse=True)
def _raising() -> Iterator[None]:
    """As Python has it, whatever pytest runs under."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled_at(line: int, work: Callable[[], object]) -> tuple[bool, bool]:
    """Do ``work``, with SIGINT at its ``line``th new line: whether one came, and ended the work."""
    seen = set()

    def at_line(frame: FrameType) -> None:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in seen:
            seen.add(place)
            if len(seen) == line:
                signal.raise_signal(signal.SIGINT)

    ended = ended_by(WRITING, at_line, work)
    return len(seen) >= line, ended


def left_by_each_line(
    directory: Path,
    name: str,
    replace: bool,
    write: Callable[[Path, str, bool], None],
    read: Callable[[Path], str],
) -> tuple[int, set[str | None]]:
    """At how many lines a signal came, and what it left: nothing is None.

    ``write``: what (or in place of what) to make at a path; ``read`` says which one is there.
    """
    found: set[str | None] = set()
    for line in count(1):
        place = directory / str(line)
        place.mkdir()
        path = place / name
        if replace:
            write(path, "before", False)
        came, ended = signalled_at(line, partial(write, path, "after", replace))
        assert ended == came
        left = [*place.iterdir()]
        assert left == ([path] if replace else left[:1])
        found.add(read(path) if left else None)
        if not came:
            break
    return line, found


@pytest.mark.parametrize("name", ["web.ksm", "web.ksm.tar"])
@pytest.mark.parametrize("replace", [False, True])
def test_a_snapshot_is_whole_or_as_before(tmp_path: Path, name: str, replace: bool) -> None:
    snapshots = {host: fork_server() for host in ("before", "after")}
    for host, snapshot in snapshots.items():
        snapshot.info["host"] = host

    def write(path: Path, host: str, replace: bool) -> None:
        write_snapshot(snapshots[host], path, replace=replace)

    def read(path: Path) -> str:
        return str(open_snapshot(path).info["host"])

    lines, found = left_by_each_line(tmp_path, name, replace, write, read)
    assert lines > 50
    assert found == {"after", "before" if replace else None}


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_whole_or_as_before(tmp_path: Path, replace: bool) -> None:
    lines, found = left_by_each_line(
        tmp_path, "page.html", replace, private_file.write_private, Path.read_text
    )
    assert lines > 10
    assert found == {"after", "before" if replace else None}

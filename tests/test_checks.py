"""What is no snapshot of a collection is refused when it is opened, never answered from."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from estimator.cli import interrupts, main
from estimator.cli.interrupts import raise_on_signals
from estimator.cli.source import Source
from estimator.errors import TargetError
from estimator.snapshot import store, stored_table
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.systems import fork_server, system

Change = Callable[[Snapshot], Snapshot]


def column(table: str, name: str, value: Any, row: int = 0) -> Change:
    """Another value in one place."""

    def change(snapshot: Snapshot) -> Snapshot:
        frame = getattr(snapshot, table).copy()
        values = frame[name].copy()
        values.iloc[row] = value
        return replace(snapshot, **{table: frame.assign(**{name: values})})

    return change


def shuffled(table: str, number: str | None = None, first: int = 0) -> Change:
    """The ``first`` row and the next in the other order; ``number``: the column with the row's."""

    def change(snapshot: Snapshot) -> Snapshot:
        frame = getattr(snapshot, table)
        order = np.arange(len(frame))
        order[first : first + 2] = first + 1, first
        frame = frame.iloc[order].reset_index(drop=True)
        if number:
            frame[number] = np.arange(len(frame), dtype=np.uint32)
        return replace(snapshot, **{table: frame})

    return change


def info(section: str, **values: Any) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        found = snapshot.info | {section: snapshot.info[section] | values}
        return replace(snapshot, info=found)

    return change


def without(section: str) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        kept = {name: value for name, value in snapshot.info.items() if name != section}
        return replace(snapshot, info=kept)

    return change


def visits(number: int) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, mappings=snapshot.mappings.assign(visits=np.uint8(number)))

    return change


DAMAGED: list[tuple[Change, str]] = [
    (shuffled("mappings"), "mappings are not in the order"),
    (shuffled("frames"), "frames are not in the order"),
    (shuffled("vmas", "vma_id"), "vmas are not in the order"),
    (shuffled("vmas"), "vma_id is not the number"),
    (shuffled("processes", "mm_id"), "processes are not in ksmd's order"),
    (shuffled("processes"), "mm_id is not the number"),
    (column("mappings", "frame_id", 4_000_000_000), "frames that are not there"),
    (column("mappings", "vma_id", 4_000_000_000, -1), "vmas that are not there"),
    (column("mappings", "page_index", 4_000_000_000, -1), "beyond the end of their vma"),
    (column("vmas", "mm_id", 4_000_000_000, -1), "processes that are not there"),
    (column("vmas", "end", 0), "end before they start"),
    (column("frames", "unknown", 77), "reasons that are not known here"),
    (column("frames", "hash", pd.NA), "no hash and no reason"),
    (column("frames", "order", 70), "larger than any memory"),
    (column("frames", "kind", 0), "of a kind that is not known here"),
    (column("frames", "kind", 3), "of a kind that is not known here"),
    (info("sizes", ksm_rmap_item=0), "can't have 0 bytes"),
    (info("sizes", ksm_stable_node=4096), "can't have 4096 bytes"),
    (info("sizes", ksm_mm_slot="64"), "sizes can't be {'ksm_"),
    (info("kernel", page_size=65537), "kernel.page_size can't be 65537"),
    (info("ksm", counters=None), "ksm.counters can't be None"),
    (info("ksm", max_page_sharing="256"), "ksm.max_page_sharing can't be '256'"),
    (info("ksm", pages_to_scan=-1), "ksm.pages_to_scan can't be -1"),
    (info("unknown", anonymous_pages=-1), "unknown can't be"),
    (info("kernel", uptime_seconds=float("nan")), "kernel.uptime_seconds can't be nan"),
    (lambda s: replace(s, info=s.info | {"features": []}), r"features can't be \[\]"),
    (lambda s: replace(s, info=s.info | {"collected_at": "noon"}), "collected_at can't be 'noon'"),
    (lambda s: replace(s, info={**s.info, "x": 1, "hash": None}), "hash can't be None"),
    (without("sizes"), "no 'sizes'"),
    (visits(23), "visited more often"),
]


@pytest.mark.parametrize(("change", "words"), DAMAGED)
def test_what_no_collection_writes_is_refused(change: Change, words: str) -> None:
    with pytest.raises(TargetError, match=words) as refused:
        check_snapshot("web.ksm", change(fork_server()))
    assert refused.value.message.startswith("web.ksm is damaged or was changed: ")


@pytest.mark.parametrize("table", ["mappings", "frames"])
def test_the_order_is_looked_at_from_piece_to_piece(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_table, "_ROWS_AT_ONCE", 5000)
    with pytest.raises(TargetError, match=f"{table} are not in the order"):
        check_snapshot("web.ksm", shuffled(table, first=4999)(fork_server()))


def test_what_a_collection_writes_is_not() -> None:
    check_snapshot("web.ksm", fork_server())
    check_snapshot("web.ksm", system([]))


def test_rows_put_in_another_order_give_no_other_number(tmp_path: Path) -> None:
    """As ``sort_values`` and ``to_parquet`` in a notebook would leave them."""
    path = tmp_path / "web.ksm"
    write_snapshot(fork_server(), path)
    file = path / "mappings.parquet"
    pq.write_table(pq.read_table(file).sort_by([("frame_id", "descending")]), file)
    command = [sys.executable, "-m", "estimator", "predict", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "mappings are not in the order of vma_id and page_index" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TargetError, match=os.strerror(number)):
        write_snapshot(fork_server(), tmp_path / "web.ksm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("coverage", ["95", "100"])
def test_run_answers_though_the_snapshot_can_not_be_kept(
    coverage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(Source, "collect", lambda source, progress, **_: fork_server())
    arguments = ["run", "--procfs", "-o", str(tmp_path / "web.ksm"), "--min-coverage", coverage]
    monkeypatch.setattr(sys, "argv", ["ksm-estimator", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 3
    assert "KSM would free 42.1 MiB net" in shown.out
    assert "No space left on device; nothing is left of it" in shown.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


FILES_OF_16_KIB = """
import resource, sys
from pathlib import Path
from estimator.errors import TargetError
from estimator.snapshot.store import write_snapshot
from tests.systems import fork_server
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
try:
    write_snapshot(fork_server(), Path(sys.argv[1]))
except TargetError as error:
    print(error)
"""


def test_a_write_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILES_OF_16_KIB, str(tmp_path / "web.ksm")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large; nothing is left of it" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_another_put_in_its_place_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def and_another(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        (tmp_path / name / "theirs").write_text("kept")

    monkeypatch.setattr(os, "mkdir", and_another)
    with pytest.raises(TargetError, match="somebody else writes to this directory"):
        write_snapshot(fork_server(), tmp_path / "web.ksm")
    (left,) = tmp_path.iterdir()
    assert [file.read_text() for file in left.iterdir()] == ["kept"]


def test_a_directory_that_can_not_be_opened_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ = os.open

    def only_the_parent(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if "web.ksm" in str(path):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", only_the_parent)
    with pytest.raises(TargetError, match="Too many open files"):
        write_snapshot(fork_server(), tmp_path / "web.ksm")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_fails_is_told_though_the_snapshot_could_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(Source, "collect", lambda source, progress, **_: fork_server())
    monkeypatch.setattr("estimator.cli._answer_with", interrupt)
    monkeypatch.setattr(sys, "argv", ["ksm-estimator", "run", "--procfs", "-o", f"{tmp_path}/a"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


@pytest.mark.parametrize("error", [ImportError("numpy failed to import"), TargetError("damaged")])
def test_what_is_made_of_an_interrupt_is_an_interrupt(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal in the middle of an import, say: C code makes another exception of it."""

    def interrupt(*_: Any) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise error

    monkeypatch.setattr(interrupts, "_received", [])
    monkeypatch.setattr(Source, "check", interrupt)
    monkeypatch.setattr(sys, "argv", ["ksm-estimator", "run", "--procfs"])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    raise_on_signals()
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "ksm-estimator: interrupted\n"


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str, groups: Any, file: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_write_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_snapshot(fork_server(), tmp_path / "web.ksm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_appears_meanwhile_is_not_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "web.ksm"
    write = store._write_table

    def meanwhile(name: str, groups: Any, file: Any) -> None:
        if not os.path.lexists(path):
            path.mkdir() if kind == "directory" else path.symlink_to("nowhere")
        write(name, groups, file)

    monkeypatch.setattr(store, "_write_table", meanwhile)
    with pytest.raises(TargetError, match="File exists"):
        write_snapshot(fork_server(), path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_that_leads_nowhere_is_something(tmp_path: Path) -> None:
    path = tmp_path / "web.ksm"
    path.symlink_to("nowhere")
    with pytest.raises(TargetError, match="exists already"):
        write_snapshot(fork_server(), path)


def test_it_is_private(tmp_path: Path) -> None:
    path = tmp_path / "web.ksm"
    write_snapshot(fork_server(), path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}
    assert json.loads((path / "snapshot.json").read_text())["host"] == "example"
    assert len(open_snapshot(path).processes)

"""Processes that /proc lets nobody read: named, and their pages counted as unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.procfs import processes
from estimator.procfs.page_size import PAGE_BYTES
from tests.systems import Area, Process, system


def stat(pid: int, comm: str) -> str:
    return f"{pid} ({comm}) S " + " ".join(str(1000 * pid + field) for field in range(4, 53))


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    for pid, comm, status in (
        (7, "web", "Name:\tweb\nRssAnon:\t     400 kB\n"),
        (8, "init", "Name:\tinit\nRssAnon:\t    5052 kB\nRssFile:\t 12 kB\n"),
        (9, "odd", "Name:\todd\n"),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat(pid, comm))
        (tmp_path / str(pid) / "status").write_text(status)
    return tmp_path


def test_who_was_not_read_and_lives_on(proc: Path) -> None:
    found, _ = processes.read_processes()
    read = np.array([process.pid == 7 for process in found])
    names, pages = processes.unreadable(found, read)
    assert sorted(names) == ["init 8", "odd 9"]
    assert pages == 5052 * 1024 // PAGE_BYTES
    assert processes.unreadable(found, np.ones(len(found), np.bool_)) == ([], 0)


def test_who_has_ended_is_not_missed(proc: Path) -> None:
    found, _ = processes.read_processes()
    (proc / "8" / "stat").unlink()
    names, pages = processes.unreadable(found, np.zeros(len(found), np.bool_))
    assert (sorted(names), pages) == (["odd 9", "web 7"], 400 * 1024 // PAGE_BYTES)


def test_their_pages_are_no_part_of_the_coverage_that_was_read() -> None:
    snapshot = system([Process("web", [Area([1, 1, 2])])])
    unknown = {"processes": 1, "anonymous_pages": 97}
    info = snapshot.info | {"unknown": unknown, "unreadable_processes": ["init 1"]}
    prediction = predict(replace(snapshot, info=info), Policy())
    assert prediction.coverage.hashed_share == 0.03
    assert prediction.coverage.could_add_frames == 97
    text = " ".join(prediction.warnings)
    assert "1 process, 97 anonymous pages that processes are charged for" in text
    assert "(among them init 1)" in text

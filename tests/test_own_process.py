"""Which of the processes of a live kernel is the one that reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from estimator.collect import namespaces
from estimator.kernel import own_process
from estimator.kernel.own_process import own_mm
from estimator.kernel.processes import Mms

STACK, HEAP, ARGUMENTS = 0x7FFC_0000_1000, 0x5555_0000_2000, 0x7FFC_0000_3000
LIKE_US = (STACK, HEAP, ARGUMENTS)
OTHER = (STACK, HEAP + 1, ARGUMENTS)


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    fields = ["S", *["0"] * 49]
    for number, value in zip((28, 47, 48), LIKE_US, strict=True):
        fields[number - 3] = str(value)
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/stat").write_bytes(b"7 (a) \xff) " + " ".join(fields).encode() + b"\n")
    monkeypatch.setattr(own_process, "_PROC", tmp_path)
    return tmp_path


def mms(*places: tuple[int, int, int]) -> Mms:
    """With the pids from ours on."""
    dtype = [(name, np.uint64) for name in ("start_stack", "start_brk", "arg_start")]
    pids = np.arange(os.getpid(), os.getpid() + len(places), dtype=np.int32)
    structs = np.array(list(places), dtype)
    return Mms({"pid": pids}, structs, np.zeros(len(places), np.uint64), 0, cast(Any, None), None)


def test_it_is_known_by_where_its_memory_is(proc: Path) -> None:
    """Also in a container, where its pid is another one."""
    assert own_mm(mms(OTHER, LIKE_US, OTHER)).tolist() == [False, True, False]
    assert own_mm(mms(OTHER, OTHER)).tolist() == [False, False]


@pytest.mark.parametrize(
    ("first", "own"),
    [
        (True, [True, False, False]),
        (None, [True, False, False]),  # a kernel without namespaces
        (False, [False] * 3),  # a container: the number may be another's out there
    ],
)
def test_among_those_that_fork_made_alike_it_is_known_by_pid(
    first: bool | None, own: list[bool], proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first is not None:
        file = proc / "self/ns/pid"
        file.touch()
        monkeypatch.setitem(namespaces.FIRST, "pid", file.stat().st_ino + (not first))
    assert own_mm(mms(LIKE_US, LIKE_US, OTHER)).tolist() == own


def test_that_it_is_left_out_is_known(proc: Path) -> None:
    left = mms(LIKE_US, OTHER)
    left = left.without(own_mm(left))
    assert left.columns["pid"].tolist() == [os.getpid() + 1]
    assert left.unreadable == 0

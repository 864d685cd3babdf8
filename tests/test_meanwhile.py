"""A small dump is collected in a process of its own: nobody can tell but by the clock."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from estimator.cli.meanwhile import in_a_fork, worth_it
from estimator.errors import CannotAnswerError, ResourceError

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")


def nothing() -> None:
    pass


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def assert_no_child() -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_work_is_done_elsewhere_and_the_rest_here() -> None:
    here: list[int] = []
    before = open_files()
    pid, pages = in_a_fork(
        lambda: (os.getpid(), np.arange(1 << 17)),  # more than a pipe holds
        lambda: here.append(os.getpid()),
    )
    assert here == [os.getpid()] != [pid]
    assert pages.tolist() == list(range(1 << 17))
    assert open_files() == before
    assert_no_child()


def test_a_failure_comes_through_with_its_hint_and_exit_code() -> None:
    def refuse() -> NoReturn:
        raise CannotAnswerError("no user pages", hint="dump again")

    with pytest.raises(CannotAnswerError) as told:
        in_a_fork(refuse, nothing)
    assert str(told.value) == "no user pages; dump again"
    assert (told.value.hint, told.value.exit_code) == ("dump again", 5)


def test_a_mistake_of_ours_comes_through_with_where_it_was() -> None:
    def divide() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as told:
        in_a_fork(divide, nothing)
    assert "in divide" in told.value.__notes__[0]


def test_a_worker_that_is_killed_lacked_memory() -> None:
    with pytest.raises(ResourceError, match="killed"):
        in_a_fork(lambda: os.kill(os.getpid(), signal.SIGKILL), nothing)
    assert_no_child()


def test_an_interruption_here_ends_the_work_there() -> None:
    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    before = open_files()
    with pytest.raises(KeyboardInterrupt):
        in_a_fork(signal.pause, interrupt)
    assert open_files() == before
    assert_no_child()


@pytest.mark.parametrize(
    ("size_bytes", "cores", "expected"),
    [(4096, 2, True), (4096, 1, False), (1 << 30, 2, True), ((1 << 30) + 1, 2, False)],
)
def test_only_small_dumps_and_two_cores_are_worth_it(
    size_bytes: int, cores: int, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    with (tmp_path / "vmcore").open("wb") as file:
        file.truncate(size_bytes)
    assert worth_it([tmp_path / "vmcore"]) == expected
    assert not worth_it([])
    assert not worth_it([tmp_path / "missing"])

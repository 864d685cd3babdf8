"""Work spread over forked processes."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from estimator.collect.workers import Pieces, forked, shared_columns
from estimator.errors import ResourceError, TargetError
from estimator.kernel import kcore

COUNT = 20_000


def test_every_piece_is_for_one_process() -> None:
    columns = shared_columns(COUNT, {"taken": np.uint8})
    pieces = Pieces(COUNT)

    def take() -> None:
        for number in pieces:
            columns["taken"][number] += 1

    with forked(3, take):
        take()
    assert (columns["taken"] == 1).all()


def test_a_worker_that_fails_is_not_overlooked() -> None:
    def fail() -> None:
        raise ValueError("as intended")

    with pytest.raises(RuntimeError, match="worker ended"), forked(2, fail):
        pass


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_a_worker_without_memory_or_files_is_no_bug(
    error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(ResourceError, match="ran out of"), forked(1, fail):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (signal.SIGKILL, ResourceError, "lack of memory"),
        (signal.SIGBUS, TargetError, "the dump got shorter"),
    ],
)
def test_a_worker_that_the_kernel_killed_is_no_bug(
    number: signal.Signals, kind: type[Exception], message: str
) -> None:
    def killed() -> None:
        faulthandler.disable()  # pytest's: it would show the stack of this process
        os.kill(os.getpid(), number)

    with pytest.raises(kind, match=message), forked(1, killed):
        pass


def test_a_signal_right_after_fork_leaves_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork
    forks: list[int] = []

    def interrupted() -> int:
        pid = fork()
        if pid:
            forks.append(pid)
            os.kill(os.getpid(), signal.SIGINT)
        return pid

    monkeypatch.setattr(os, "fork", interrupted)
    with pytest.raises(KeyboardInterrupt), forked(1, signal.pause):
        pass
    assert len(forks) == 1
    with pytest.raises(ChildProcessError):  # it was waited for
        os.waitpid(forks[0], os.WNOHANG)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_worker_whose_parent_has_gone_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = shared_columns(1, {"worked": np.uint8})

    def work() -> None:
        columns["worked"][0] = 1

    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(RuntimeError), forked(1, work):
        pass
    assert columns["worked"][0] == 0


def test_a_forked_process_has_a_kcore_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another open file under the same number, as its position shows; other files stay."""
    monkeypatch.setattr(kcore, "KCORE", tmp_path / "kcore")
    for name in ("kcore", "other"):
        (tmp_path / name).write_bytes(bytes(100))
    files = [os.open(tmp_path / name, os.O_RDONLY) for name in ("kcore", "other")]
    try:
        for file in files:
            os.lseek(file, 10, os.SEEK_SET)
        kcore.own_kcore()
        assert [os.lseek(file, 0, os.SEEK_CUR) for file in files] == [0, 10]
        assert os.readlink(f"/proc/self/fd/{files[0]}") == str(tmp_path / "kcore")
        assert not os.get_inheritable(files[0])
    finally:
        for file in files:
            os.close(file)

"""Work spread over processes: forked after the symbols are loaded, results in shared memory."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.collect.limits import is_own_limit
from estimator.errors import ResourceError, TargetError
from estimator.packed import PIECE_ROWS, Packed
from estimator.signals import ENDING

_PR_SET_PDEATHSIG = 1
_MADV_REMOVE = 9
_ENDING = (*ENDING, signal.SIGUSR1)
_EXIT_LACKS = 75  # EX_TEMPFAIL of sysexits.h
_FEWER = "try: --workers 1"


def shared_columns(rows: int, dtypes: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Zeroed arrays of ``rows`` values each that forked processes write for us to read."""
    return {
        name: np.frombuffer(mmap.mmap(-1, rows * np.dtype(dtype).itemsize or 1), np.uint8)[
            : rows * np.dtype(dtype).itemsize
        ].view(dtype)
        for name, dtype in dtypes.items()
    }


def packed_away(values: npt.NDArray[Any]) -> Packed:
    """A column of ``shared_columns``; its own memory is given back on the way."""
    column = Packed(values.dtype)
    madvise = ctypes.CDLL(None).madvise
    for begin in range(0, len(values), PIECE_ROWS):  # whole pages, of any type
        piece = values[begin : begin + PIECE_ROWS]
        column.append(piece)
        if len(piece) == PIECE_ROWS:
            madvise(ctypes.c_void_p(piece.ctypes.data), ctypes.c_size_t(piece.nbytes), _MADV_REMOVE)
    return column


class Lock:
    """Held by one at a time of the processes that are forked with it; freed where one is killed."""

    def __init__(self) -> None:
        self._file = os.memfd_create("lock")

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __del__(self) -> None:
        os.close(self._file)


class Pieces:
    """The numbers from 0 to ``count`` - 1, each of them for one of the processes that iterate."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._lock = Lock()

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._lock:
                number = int(self._next[0])
                self._next[0] += 1
            if number >= self._count:
                return
            yield number


@contextmanager
def forked(count: int, work: Callable[[], None]) -> Iterator[None]:
    """Run ``work`` in ``count`` forked processes beside the body of the context.

    Raises RuntimeError if one fails, ResourceError if it is for lack of memory, processes or files,
    TargetError if a mapped file ends before its map; none of them outlives the context, or this
    process.
    """
    children: list[int] = []
    try:
        for _ in range(count):
            _fork(work, children)
        yield
        while children:
            _, status = os.waitpid(children[-1], 0)
            children.pop()
            _judge(os.waitstatus_to_exitcode(status))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _fork(work: Callable[[], None], children: list[int]) -> None:
    """Fork one child and note it: no signal's exception comes between the two."""
    parent = os.getpid()
    with _signals_wait() as handlers:
        pid = os.fork()
        if pid == 0:
            _child(work, parent, handlers)
        children.append(pid)


@contextmanager
def _signals_wait() -> Iterator[dict[signal.Signals, Any]]:
    """Signals that end us come after the context. Yields the handlers as they were.

    To block them would not do: another thread takes them then, and the exception is ours all the
    same.
    """
    waiting: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            handlers[number] = signal.signal(number, lambda sent, frame: waiting.append(sent))
    try:
        yield handlers
    finally:
        _restore(handlers)
        for caught in waiting:
            signal.raise_signal(caught)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _judge(exit_code: int) -> None:
    """Raise what the ``exit_code`` of a worker means; minus the signal if one killed it."""
    if exit_code == _EXIT_LACKS:
        raise ResourceError("a worker process ran out of memory or files", hint=_FEWER)
    if exit_code == -signal.SIGKILL:
        raise ResourceError("a worker process was killed, as for lack of memory", hint=_FEWER)
    if exit_code == -signal.SIGBUS:
        raise TargetError("the dump got shorter, or its disk failed, while it was read")
    if exit_code:
        raise RuntimeError(f"a worker ended with status {exit_code}")


def _child(work: Callable[[], None], parent: int, handlers: Mapping[signal.Signals, Any]) -> None:
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it ended before we asked to be told
            _restore(handlers)
            work()
            status = 0
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if is_own_limit(error):
            status = _EXIT_LACKS
        else:
            traceback.print_exc()
    finally:
        os._exit(status)

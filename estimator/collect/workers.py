"""Work spread over processes: forked after the symbols are loaded, results in shared memory."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

_PR_SET_PDEATHSIG = 1


def shared_columns(rows: int, dtypes: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Zeroed arrays of ``rows`` values each that forked processes write for us to read."""
    sizes = {name: rows * np.dtype(dtype).itemsize for name, dtype in dtypes.items()}
    aligned = {name: -(-size // 8) * 8 for name, size in sizes.items()}
    memory = np.frombuffer(mmap.mmap(-1, sum(aligned.values()) or 1), np.uint8)
    columns, offset = {}, 0
    for name, dtype in dtypes.items():
        columns[name] = memory[offset : offset + sizes[name]].view(dtype)
        offset += aligned[name]
    return columns


class Pieces:
    """The numbers from 0 to ``count`` - 1, each of them for one of the processes that iterate."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._lock = os.memfd_create("pieces")

    def __iter__(self) -> Iterator[int]:
        while True:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            number = int(self._next[0])
            self._next[0] += 1
            fcntl.lockf(self._lock, fcntl.LOCK_UN)
            if number >= self._count:
                return
            yield number

    def __del__(self) -> None:
        os.close(self._lock)


@contextmanager
def forked(count: int, work: Callable[[], None]) -> Iterator[None]:
    """Run ``work`` in ``count`` forked processes beside the body of the context.

    Raises RuntimeError if one fails; none of them outlives the context, or this process.
    """
    children = []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                _child(work)
            children.append(pid)
        yield
        while children:
            _, status = os.waitpid(children[-1], 0)
            children.pop()
            if status:
                raise RuntimeError(f"a worker ended with status {status}")
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _child(work: Callable[[], None]) -> None:
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        work()
        status = 0
    except KeyboardInterrupt:
        pass
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)

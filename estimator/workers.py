"""Work spread over processes: forked after the symbols are loaded, results in shared memory."""

from __future__ import annotations

import ctypes
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


def hand_out(count: int) -> Iterator[int]:
    """The numbers below ``count``: each goes to one of the processes that were forked since.

    A process that gets less CPU gets fewer of them.
    """
    file = os.fdopen(os.memfd_create("numbers"), "r+b", buffering=0)
    os.pwrite(file.fileno(), np.arange(count, dtype=np.uint32).tobytes(), 0)
    # they have one position in the file: the kernel moves it on at each read
    return (int.from_bytes(number, "little") for number in iter(lambda: file.read(4), b""))


@contextmanager
def forked(count: int, work: Callable[[int], None]) -> Iterator[None]:
    """Run ``work(0)`` to ``work(count - 1)`` in forked processes beside the body of the context.

    Raises RuntimeError if one fails; none of them outlives the context, or this process.
    """
    children = []
    try:
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                _child(work, number)
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


def _child(work: Callable[[int], None], number: int) -> None:
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        work(number)
        status = 0
    except KeyboardInterrupt:
        pass
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)

"""Going easy on a machine that has other work to do."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import time
from collections.abc import Iterator

_NICE = 10
_BURST_SECONDS = 0.05  # how much of a delay is made up for
_SYS_IOPRIO = {"x86_64": (251, 252), "aarch64": (30, 31)}  # ioprio_set, ioprio_get
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13  # IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)


def lower_priority() -> None:
    """Let every other process go first, with the CPU and with disks."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    _set_io_priority(_IOPRIO_IDLE)


@contextlib.contextmanager
def low_priority() -> Iterator[None]:
    """``lower_priority`` for a while: as root, it is then what it was before."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    io_priority = _io_priority()
    lower_priority()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        _set_io_priority(io_priority)


def _io_priority() -> int:
    """As ioprio_get(2) says it; 0, none, on machines whose numbers of calls are not known here."""
    _, get = _SYS_IOPRIO.get(platform.machine(), (None, None))
    return 0 if get is None else int(ctypes.CDLL(None).syscall(get, _IOPRIO_WHO_PROCESS, 0))


def _set_io_priority(priority: int) -> None:
    set_, _ = _SYS_IOPRIO.get(platform.machine(), (None, None))
    if set_ is not None:
        ctypes.CDLL(None).syscall(set_, _IOPRIO_WHO_PROCESS, 0, priority)


class Pace:
    """Keeps the reading of memory below ``megabytes`` (10**6 bytes) a second; None: no limit.

    It holds for all processes together that are forked with it.
    """

    def __init__(self, megabytes: float | None) -> None:
        self._seconds_per_byte = 0.0 if megabytes is None else 1e-6 / megabytes
        if self._seconds_per_byte:
            from estimator.collect.workers import Lock

            self._lock = Lock()
            self._free_at = ctypes.c_double.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
            self._free_at.value = time.monotonic()

    def __call__(self, read_bytes: int) -> None:
        """Wait until ``read_bytes`` more were allowed."""
        if not self._seconds_per_byte:
            return
        with self._lock:
            now = time.monotonic()
            free_at = max(self._free_at.value, now - _BURST_SECONDS)
            free_at += read_bytes * self._seconds_per_byte
            self._free_at.value = free_at
        if free_at > now:
            time.sleep(free_at - now)

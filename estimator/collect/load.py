"""Going easy on a machine that has other work to do."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator

_NICE = 10
_BURST_SECONDS = 0.25  # how much of a delay is made up for
_SYS_IOPRIO_SET, _SYS_IOPRIO_GET = 251, 252  # x86-64
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13  # IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)


def lower_priority() -> None:
    """Let every other process go first, with the CPU and with disks."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    ctypes.CDLL(None).syscall(_SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


@contextlib.contextmanager
def low_priority() -> Iterator[None]:
    """``lower_priority`` for a while: as root, it is then what it was before."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    io_priority = ctypes.CDLL(None).syscall(_SYS_IOPRIO_GET, _IOPRIO_WHO_PROCESS, 0)
    lower_priority()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        ctypes.CDLL(None).syscall(_SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, io_priority)


class Pace:
    """Keeps the reading of memory below ``megabytes`` (10**6 bytes) a second; None: no limit."""

    def __init__(self, megabytes: float | None) -> None:
        self._seconds_per_byte = 0.0 if megabytes is None else 1e-6 / megabytes
        self._free_at = time.monotonic()

    def __call__(self, read_bytes: int) -> None:
        """Wait until ``read_bytes`` more were allowed."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now - _BURST_SECONDS)
        self._free_at += read_bytes * self._seconds_per_byte
        if self._free_at > now:
            time.sleep(self._free_at - now)

"""Memory while work goes on: it ends before the kernel has to kill us, or somebody else."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from estimator.collect.budget import mib, needed_bytes
from estimator.collect.memory_room import memory_room
from estimator.errors import ResourceError

_WATCH_SECONDS, _MOST_SECONDS = 0.05, 0.5
_LOOKS_SHARE = 0.01  # of a core: a look costs 20 times as much where a CPU is emulated
_LEFT_BYTES = 64 << 20  # more than is taken between two looks
_STATUS = Path("/proc/self/status")


@contextlib.contextmanager
def watched(
    beyond: Callable[[], ResourceError | None], begin: threading.Event | None = None
) -> Iterator[None]:
    """Raise what ``beyond`` gives, soon after it does; it is asked all the time from ``begin`` on.

    Only in the main thread, and once at a time: it takes SIGUSR1.
    """
    said: list[ResourceError] = []
    ended, main = threading.Event(), threading.get_ident()

    def watch() -> None:
        if begin is not None:
            begin.wait()
        seconds = _WATCH_SECONDS
        while not ended.wait(min(seconds, _MOST_SECONDS)):
            began = time.thread_time()
            error = beyond()
            seconds = max(_WATCH_SECONDS, (time.thread_time() - began) / _LOOKS_SHARE)
            if error is not None:
                said.append(error)
                signal.pthread_kill(main, signal.SIGUSR1)
                return

    def end(*_: object) -> None:
        raise said[0]

    before = signal.signal(signal.SIGUSR1, end)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        if begin is not None:
            begin.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def while_reading(max_bytes: int | None) -> AbstractContextManager[None]:
    """Raise ResourceError soon after we, with our workers, hold more than ``max_bytes``.

    Less than any system takes is left to ``refuse_beyond``, which knows how much it takes. None: as
    soon as this machine, or a memory cgroup we are in, has next to no room left.
    """
    return watched(partial(_beyond, max_bytes))


def _beyond(max_bytes: int | None) -> ResourceError | None:
    if max_bytes is not None:
        if _held_bytes() <= max(max_bytes, needed_bytes(0, running=False)):
            return None
        return ResourceError(
            f"stopped: it takes more memory than --max-memory {mib(max_bytes)}M",
            hint="raise the limit, or take a dump and read it where there is more memory",
        )
    room = memory_room()
    if room is None or room.free_bytes >= _LEFT_BYTES:
        return None
    return ResourceError(
        f"stopped: {room.where} has room for {max(0, room.free_bytes) >> 20:,} MiB more only",
        hint="try again when there is more, or take a dump and read it elsewhere",
    )


def _held_bytes() -> int:
    """Memory that no file backs, with what workers share with us; 0 if it can't be read."""
    with contextlib.suppress(OSError):
        kib = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", _STATUS.read_text(), re.MULTILINE)
        return sum(map(int, kib)) << 10
    return 0

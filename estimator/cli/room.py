"""Memory for an answer from a snapshot: asked for before its rows are read, watched afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import click

from estimator.cli.quantities import Size
from estimator.collect.budget import mib, require_room
from estimator.collect.memory_room import own_bytes
from estimator.errors import ResourceError, UsageError

max_memory_option = click.option(
    "--max-memory",
    type=Size(),
    metavar="SIZE",
    help="Refuse to start if more memory may be needed (8G, 512M), and end beyond it; "
    "else what this machine and the memory cgroup have room for.",
)

_WATCH_SECONDS = 0.05
_FIXED_BYTES = 200 << 20


@dataclass(frozen=True)
class Need:
    """What an answer takes at its peak, in bytes on top of ``_FIXED_BYTES``."""

    per_mapping: int
    per_frame: int

    def bytes_for(self, mappings: int, frames: int) -> int:
        """Not backed by files; what is simulated item by item comes on top."""
        return _FIXED_BYTES + self.per_mapping * mappings + self.per_frame * frames


# ./scripts/bench memory measures them
COUNTERS = Need(per_mapping=36, per_frame=56)
REPORT = Need(per_mapping=70, per_frame=60)
ADVICE = Need(per_mapping=110, per_frame=80)
IN_MEMORY = Need(per_mapping=60, per_frame=140)  # as-if: no row stays in its file


@contextmanager
def room_for(need: Need, max_bytes: int | None) -> Iterator[Callable[[int, int], None]]:
    """Hold to ``max_bytes``; None: what there is room for, asked once.

    Gives what has to be called with the numbers of mappings and frames of each snapshot before they
    are read: it raises UsageError where all so far may take more than ``max_bytes``, ResourceError
    where they may take more than there is. With ``max_bytes`` ResourceError is also raised soon
    after we have more.
    """
    asked = [0, 0]
    allowed, ended = threading.Event(), threading.Event()

    def allow(mappings: int, frames: int) -> None:
        asked[:] = asked[0] + mappings, asked[1] + frames
        _require(need, asked[0], asked[1], max_bytes)
        allowed.set()

    if max_bytes is None or not own_bytes():  # where nothing tells, nothing can be watched
        yield allow
        return
    before = signal.signal(signal.SIGUSR1, lambda *_: _end(max_bytes))
    arguments = (max_bytes, threading.get_ident(), allowed, ended)
    watcher = threading.Thread(target=_watch, args=arguments, daemon=True)
    watcher.start()
    try:
        yield allow
    finally:
        ended.set()
        allowed.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def _require(need: Need, mappings: int, frames: int, max_bytes: int | None) -> None:
    needed = need.bytes_for(mappings, frames)
    about = f"{mappings:,} mappings of {frames:,} frames may take {mib(needed):,} MiB"
    if max_bytes is None:
        require_room(about, needed)
    elif needed > max_bytes:
        raise UsageError(
            f"{about}, more than --max-memory {mib(max_bytes)}M",
            hint=f"--max-memory {mib(needed)}M, or ask on a machine that has it",
        )


def _watch(max_bytes: int, main: int, allowed: threading.Event, ended: threading.Event) -> None:
    allowed.wait()
    while not ended.wait(_WATCH_SECONDS):
        if own_bytes() > max_bytes:
            signal.pthread_kill(main, signal.SIGUSR1)
            return


def _end(max_bytes: int) -> NoReturn:
    raise ResourceError(
        f"stopped: the answer takes more memory than --max-memory {mib(max_bytes)}M",
        hint="raise the limit, or ask where there is more memory",
    )

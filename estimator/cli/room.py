"""Memory for an answer from a snapshot: asked for before its rows are read, watched afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from estimator.cli.memory_watch import watched
from estimator.cli.quantities import Size
from estimator.collect.budget import mib, require_room
from estimator.collect.memory_room import own_bytes
from estimator.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from estimator.arrays import Empty
    from estimator.ksm.hash_parts import Workroom

max_memory_option = click.option(
    "--max-memory",
    type=Size(),
    metavar="SIZE",
    help="Take no more memory (8G, 512M): refuse to start if more may be needed, and end beyond "
    "it; most answers are then worked out in parts, slower, with files in TMPDIR or /var/tmp. "
    "Else what this machine and the memory cgroup have room for.",
)

_FIXED_BYTES = 200 << 20


@dataclass(frozen=True)
class Need:
    """What an answer takes at its peak, in bytes on top of ``_FIXED_BYTES``."""

    per_mapping: int
    per_frame: int

    def bytes_for(self, mappings: int, frames: int) -> int:
        """Not backed by files; what is simulated item by item comes on top."""
        return _FIXED_BYTES + self.more_bytes(mappings, frames)

    def more_bytes(self, mappings: int, frames: int) -> int:
        """The same without ``_FIXED_BYTES``."""
        return self.per_mapping * mappings + self.per_frame * frames


# ./scripts/bench memory measures them
COUNTERS = Need(per_mapping=20, per_frame=28)
REPORT = Need(per_mapping=24, per_frame=36)  # JSON too
ADVICE = Need(per_mapping=50, per_frame=50)  # with many services
PAGE = Need(per_mapping=70, per_frame=60)
FORECAST = Need(per_mapping=30, per_frame=40)
RAMP = Need(per_mapping=160, per_frame=100)
IN_MEMORY = Need(per_mapping=60, per_frame=140)  # as-if: no row stays in its file
IN_PARTS = Need(per_mapping=4, per_frame=12)  # what there is of all, whatever the parts
PART = IN_MEMORY
_MOST_PARTS = 64  # each looks at all mappings once


class Allowance:
    """What ``room_for`` allows. ``parts``: how to work with less than the whole needs, if at all.

    Called with the numbers of mappings and frames of each snapshot before they are read; gives what
    makes the arrays of its columns where these have to lie on a disk.
    """

    def __init__(self, need: Need, max_bytes: int | None, in_parts: bool, begin: threading.Event):
        self._need, self._max, self._in_parts, self._begin = need, max_bytes, in_parts, begin
        self._mappings = self._frames = 0
        self.parts: Workroom | None = None

    def __call__(self, mappings: int, frames: int) -> Empty | None:
        """Raises UsageError where all so far may take more than the limit, ResourceError where
        they may take more than there is.
        """
        self._mappings, self._frames = self._mappings + mappings, self._frames + frames
        needed = self._need.bytes_for(self._mappings, self._frames)
        about = _about(self._mappings, self._frames, needed)
        if self._max is None:
            require_room(about, needed)
        elif needed > self._max:
            self._work_in_parts(needed, about, self._max)
        self._begin.set()
        return self.parts.empty if self.parts else None

    def _work_in_parts(self, needed: int, about: str, max_bytes: int) -> None:
        kept = IN_PARTS.bytes_for(self._mappings, self._frames)
        left = max_bytes - kept
        smallest = PART.more_bytes(self._mappings, self._frames) // _MOST_PARTS
        least = kept + smallest if self._in_parts else needed
        if left < smallest or not self._in_parts:
            raise UsageError(
                f"{about}, more than --max-memory {mib(max_bytes)}M",
                hint=f"--max-memory {mib(min(least, needed))}M, or ask on a machine that has it",
            )

        def fits(mappings: int, frames: int) -> bool:
            return PART.more_bytes(mappings, frames) <= left

        def require(mappings: int, frames: int, why: str) -> None:
            if not fits(mappings, frames):
                size = kept + PART.more_bytes(mappings, frames)
                raise UsageError(
                    f"{why}: {_about(mappings, frames, size)}, more than --max-memory "
                    f"{mib(max_bytes)}M",
                    hint=f"--max-memory {mib(min(size, needed))}M, or ask on a machine that has it",
                )

        from estimator.cli.on_disk import arrays_on_disk
        from estimator.ksm.hash_parts import Workroom

        self.parts = Workroom(arrays_on_disk(), fits, require)


def _about(mappings: int, frames: int, size: int) -> str:
    return f"{mappings:,} mappings of {frames:,} frames may take {mib(size):,} MiB"


@contextmanager
def room_for(need: Need, max_bytes: int | None, *, in_parts: bool = False) -> Iterator[Allowance]:
    """Hold to ``max_bytes``; None: what there is room for, asked once.

    ``in_parts``: the answer can be worked out in parts where the whole needs more. With
    ``max_bytes`` ResourceError is raised soon after we have more.
    """
    allowed = threading.Event()
    allow = Allowance(need, max_bytes, in_parts, allowed)
    if max_bytes is None or not own_bytes():  # where nothing tells, nothing can be watched
        yield allow
        return

    def beyond() -> ResourceError | None:
        if own_bytes() <= max_bytes:
            return None
        return ResourceError(
            f"stopped: the answer takes more memory than --max-memory {mib(max_bytes)}M",
            hint="raise the limit, or ask where there is more memory",
        )

    with watched(beyond, allowed):
        yield allow

"""How much memory a collection needs, known before it starts."""

from __future__ import annotations

from estimator.collect.memory_room import memory_room, own_bytes
from estimator.errors import ResourceError, UsageError

_FIXED_BYTES = 200 << 20  # interpreter, libraries, symbols
_BYTES_PER_MAPPING = 24  # where each has a frame of its own; tests/test_collect_memory.py
_BYTES_PER_MOVING_MAPPING = 36  # two walks are compared, contents come in the order of addresses


def needed_bytes(mappings: int, *, running: bool, answers: int = 0) -> int:
    """An upper bound of the memory, not backed by files, for so many mappings.

    ``running``: of a system that runs, not of a dump. ``answers``: bytes of a mapping
    that a prediction takes afterwards; 0: none follows.
    """
    each = _BYTES_PER_MOVING_MAPPING if running else _BYTES_PER_MAPPING
    return _FIXED_BYTES + (each + answers) * mappings


def refuse_beyond(
    max_memory_bytes: int | None, mappings: int, *, running: bool, answers: int = 0
) -> None:
    """Raise UsageError if ``mappings`` may take more memory than ``max_memory_bytes`` allows.

    Without it, ResourceError if they may take more than there is.
    """
    needed = needed_bytes(mappings, running=running, answers=answers)
    mapped = f"{mappings:,} pages are mapped: that may take {mib(needed):,} MiB"
    if max_memory_bytes is None:
        require_room(mapped, needed)
    elif needed > max_memory_bytes:
        raise UsageError(
            f"{mapped}, more than --max-memory {mib(max_memory_bytes)}M",
            hint=f"--max-memory {mib(needed)}M, or take a dump and read it elsewhere",
        )


def require_room_to_start() -> None:
    """Raise ResourceError where there is no room for even the smallest system."""
    require_room(f"reading a system takes {mib(_FIXED_BYTES):,} MiB", _FIXED_BYTES)


def require_room(why: str, needed: int) -> None:
    """Raise ResourceError, telling ``why``, unless there is room for ``needed`` bytes.

    What we have of them already counts.
    """
    room = memory_room()
    if room is None or needed - own_bytes() <= room.free_bytes:
        return
    raise ResourceError(
        f"{why}, and {room.where} has room for {max(0, room.free_bytes) >> 20:,} MiB more",
        hint=f"give it more, or to try all the same: --max-memory {mib(needed)}M",
    )


def mib(size: int) -> int:
    """Bytes as MiB, rounded up."""
    return -(-size // (1 << 20))

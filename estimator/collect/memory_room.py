"""How much memory we may still take: of this machine, and of the memory cgroups we are in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PROC = Path("/proc")
# of version 2 and of version 1 of cgroups: limit, usage, and in memory.stat what is given up first
_FILES = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file"),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@dataclass(frozen=True)
class Room:
    """``free_bytes`` of memory; ``where`` names whose limit it is."""

    free_bytes: int
    where: str


def memory_room() -> Room | None:
    """The narrowest room for us; None where nothing tells.

    Beyond it the kernel kills: somebody on this machine, or in the cgroup, which may be us.
    """
    return min((*_machine(), *_cgroups()), key=lambda room: room.free_bytes, default=None)


def own_bytes() -> int:
    """The memory that we have already and that is not backed by files; 0 if it can't be read."""
    with contextlib.suppress(OSError):
        resident, shared = (_PROC / "self" / "statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return 0


def meminfo_bytes(name: str) -> int | None:
    """What /proc/meminfo says of ``name`` ("MemAvailable"); None if it does not say it."""
    with contextlib.suppress(OSError):
        pairs = (line.split() for line in (_PROC / "meminfo").read_text().splitlines())
        return next((int(pair[1]) << 10 for pair in pairs if pair[0] == f"{name}:"), None)
    return None


def _machine() -> Iterator[Room]:
    if (available := meminfo_bytes("MemAvailable")) is not None:
        yield Room(available, "this machine")


def _cgroups() -> Iterator[Room]:
    """One for each limit from our memory cgroup up to the root of what is mounted."""
    own = _own_cgroups()
    for kind, root, mounted, options in _mounts():
        path = own.get("" if kind == "cgroup2" else "memory")
        if path is None or (kind == "cgroup" and "memory" not in options):
            continue
        below = PurePosixPath(path)
        below = below.relative_to(root) if below.is_relative_to(root) else PurePosixPath()
        for part in (below, *below.parents):
            room = _room_in(mounted / part, *_FILES[kind])
            if room is not None:
                yield room


def _room_in(cgroup: Path, limit: str, usage: str, given_up: str) -> Room | None:
    """None for a cgroup without a limit ("max"), and for the root, which has no files of it."""
    with contextlib.suppress(OSError, ValueError):
        most, taken = (int((cgroup / name).read_text()) for name in (limit, usage))
        lines = (line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        free_bytes = most - taken + next(int(n) for name, n in lines if name == given_up)
        return Room(free_bytes, f"the memory cgroup {cgroup}")
    return None


def _own_cgroups() -> dict[str, str]:
    """Our cgroup by controller; that of version 2 by ""."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (_PROC / "self" / "cgroup").read_text(errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            found |= dict.fromkeys(controllers.split(","), path)
    return found


def _mounts() -> Iterator[tuple[str, str, Path, str]]:
    """The mounted hierarchies of cgroups: kind, which part of it, where, and its controllers."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "self" / "mountinfo").read_text(errors="replace").splitlines():
            about, _, of_kind = line.partition(" - ")
            kind, _, options = of_kind.split(" ", 2)
            if kind in _FILES:
                root, mounted = about.split(" ")[3:5]
                yield kind, root, Path(mounted), options

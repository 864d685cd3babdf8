"""Whether this process sees the host as the host does."""

from __future__ import annotations

from pathlib import Path

FIRST = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}
"""Their inodes: PROC_*_INIT_INO in include/linux/proc_ns.h."""


def in_first_namespace(proc: Path, kind: str) -> bool:
    """Whether our namespace ("user" or "pid"), by ``proc``, is the first one, the host's."""
    try:
        return (proc / "self" / "ns" / kind).stat().st_ino == FIRST[kind]
    except FileNotFoundError:  # a kernel without them
        return True

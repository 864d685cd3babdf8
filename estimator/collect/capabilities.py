"""What this process may do: capabilities(7)."""

from __future__ import annotations

from pathlib import Path

# include/uapi/linux/capability.h
SYS_RAWIO, SYS_PTRACE, SYS_ADMIN = 17, 19, 21


def capabilities(proc: Path = Path("/proc")) -> int:
    """Our effective capabilities, a bit each; 0 if it is not said."""
    lines = (proc / "self" / "status").read_text().splitlines()
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)

"""Of which machine and boot the kernel is that is read."""

from __future__ import annotations

import uuid

from drgn import Program

from estimator.kernel.failures import skip_unreadable


def boot_id(prog: Program) -> str | None:
    """As in /proc/sys/kernel/random/boot_id; None before anybody read that, or if not found.

    ``sysctl_bootid`` (drivers/char/random.c) is zeroes until proc_do_uuid() first fills it in.
    """
    with skip_unreadable(LookupError):
        number = prog.read(int(prog["sysctl_bootid"].address_), 16)
        return str(uuid.UUID(bytes=number)) if any(number) else None
    return None


def host(prog: Program) -> str:
    """The node name of the first UTS namespace."""
    name: bytes = prog["init_uts_ns"].name.nodename.string_()
    return name.decode(errors="replace")

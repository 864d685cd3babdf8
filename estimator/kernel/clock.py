"""The kernel's own clock: when the moment was that a picture shows, whenever it was read."""

from __future__ import annotations

from drgn import Program
from drgn.helpers.linux.timekeeping import uptime

from estimator.kernel.failures import skip_unreadable


def uptime_seconds(prog: Program) -> float | None:
    """Since boot, with time asleep, as in /proc/uptime, at the last tick; None if not found.

    As ktime_get_coarse_boottime(), from ``tk_core`` (kernel/time/timekeeping.c).
    """
    with skip_unreadable(LookupError, AttributeError):
        return uptime(prog)
    return None

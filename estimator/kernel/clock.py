"""The kernel's own clock: when the moment was that a picture shows, whenever it was read."""

from __future__ import annotations

import datetime

from drgn import Program
from drgn.helpers.linux.timekeeping import ktime_get_real_seconds, uptime

from estimator.kernel.failures import skip_unreadable


def uptime_seconds(prog: Program) -> float | None:
    """Since boot, with time asleep, as in /proc/uptime, at the last tick; None if not found.

    As ktime_get_coarse_boottime(), from ``tk_core`` (kernel/time/timekeeping.c).
    """
    with skip_unreadable(LookupError, AttributeError):
        return uptime(prog)
    return None


def wall_clock(prog: Program) -> str | None:
    """The date and time of day at the last tick, in UTC as ISO 8601; None if not found.

    As ktime_get_real_seconds(): ``xtime_sec`` of the same, or the CRASHTIME of VMCOREINFO.
    """
    with skip_unreadable(LookupError, AttributeError, ValueError, OverflowError, OSError):
        seconds = ktime_get_real_seconds(prog).value_()
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
    return None

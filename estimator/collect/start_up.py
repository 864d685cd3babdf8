"""What starting takes of a collection: measured, since ``check`` starts the same way."""

from __future__ import annotations

import os
import time
from pathlib import Path

_START_TIME = 19  # field 22 of proc_pid_stat(5), counted from the one behind the name


def seconds_since_start() -> float:
    """How long this process has been there."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)

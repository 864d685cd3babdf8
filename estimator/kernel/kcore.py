"""/proc/kcore in processes that are forked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

KCORE = Path("/proc/kcore")


def own_kcore() -> None:
    """Give a forked process an open /proc/kcore of its own, in the place of the one it shares.

    Who reads at the same time through one open file gets pages of one another: read_kcore_iter() in
    fs/proc/kcore.c copies them by way of one buffer, ``file->private_data``. Where it is not open
    nothing is done. Raises OSError.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the directory itself
            if os.readlink(f"/proc/self/fd/{name}") == str(KCORE):
                opened = os.open(KCORE, os.O_RDONLY | os.O_CLOEXEC)
                os.dup2(opened, int(name), inheritable=False)
                os.close(opened)

"""Arrays that lie in unnamed files and not in memory: what --max-memory has no room for."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Empty
from estimator.collect.budget import mib
from estimator.errors import ResourceError, UsageError

_USUAL = "/var/tmp"  # /tmp is memory on many systems
_IN_MEMORY = ("tmpfs", "ramfs")


def arrays_on_disk() -> Empty:
    """What makes arrays in files in $TMPDIR, else /var/tmp; they are gone with the arrays.

    Raises UsageError where that is memory, too; what is returned ResourceError where no room is
    left there.
    """
    directory = os.environ.get("TMPDIR") or _USUAL
    if _file_system(directory) in _IN_MEMORY:
        raise UsageError(
            f"with so little memory, numbers are kept in files, and {directory} is in memory",
            hint=f"name a directory on a disk: TMPDIR={_USUAL}",
        )

    def empty(count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        size = count * np.dtype(dtype).itemsize
        if not size:
            return np.empty(count, dtype)
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                if hasattr(os, "posix_fallocate"):  # else a full disk ends us with SIGBUS
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                return np.frombuffer(mmap.mmap(file.fileno(), size), dtype)
        except OSError as error:
            raise ResourceError(
                f"{directory} has no room for {mib(size):,} MiB: {error.strerror}",
                hint="name a larger disk with TMPDIR, or raise --max-memory",
            ) from error

    return empty


def _file_system(directory: str) -> str | None:
    """The type of the file system that ``directory`` is on; None: not known."""
    try:
        device = os.stat(directory).st_dev
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    types = {line.split()[2]: line.partition(" - ")[2].split()[0] for line in lines}
    return types.get(number)

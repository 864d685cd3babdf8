"""What is made in a directory where others may write too: ours alone, and brought to the disk."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any


def require_ours(directory: int) -> None:
    """Raise OSError if the open directory is not the one just made: somebody put another there."""
    status = os.fstat(directory)
    if status.st_uid != os.geteuid() or os.listdir(directory):
        raise OSError(errno.EEXIST, "somebody else writes to this directory")


def refuse_existing(name: str, parent: int) -> None:
    """Raise OSError if ``name`` has appeared: rename() would replace an empty directory."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def create(name: str, directory: int, written: list[str]) -> Any:
    """The new file ``name`` (0600), open to be written; its name goes into ``written``."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    file = os.open(name, flags, 0o600, dir_fd=directory)
    written.append(name)
    return os.fdopen(file, "wb")


def bring_to_disk(file: Any) -> None:
    """Write to the disk what the open ``file`` was given."""
    file.flush()
    os.fsync(file.fileno())

"""A file of ours that only its owner can read: it names what runs on the machine."""

from __future__ import annotations

import os
from pathlib import Path

from estimator.errors import TargetError


def write_private(path: Path, text: str, replace: bool) -> None:
    """Write ``text`` to the new file ``path`` (0600); ``replace``: or to one that is there.

    Written beside ``path`` then, and renamed: whoever reads it finds one of the two, whole. Raises
    TargetError where that fails, and leaves nothing behind.
    """
    place = path.with_name(f".{path.name}.{os.urandom(8).hex()}") if replace else path
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            if replace:
                os.replace(place, path)
        except BaseException:
            place.unlink()
            raise
    except OSError as error:
        raise TargetError(f"{path} can't be written: {error.strerror}") from error

"""Files of ours, whole or not there, which only their owner can read: they name what runs here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from estimator.errors import TargetError, UsageError
from estimator.signals import interrupts_wait


def require_new(path: Path | None, force: bool) -> None:
    """Raise UsageError where ``path`` exists, unless it may be replaced (``force``)."""
    if path is not None and not force and os.path.lexists(path):
        raise UsageError(f"{path} exists already", hint="replace it with --force")


@contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[Path]:
    """An empty file (0600) for the body to fill, at ``path``; ``replace``: where one may be.

    It lies beside ``path`` then, and takes its name at the end: whoever reads finds one of the two,
    whole; where ``path`` is a symbolic link, beside the file that it leads to. Raises TargetError
    for a device, a pipe or a directory, which nothing takes the place of, and where that or the
    body's writing fails, and leaves nothing behind. An interrupt waits for the end.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise TargetError(f"{path} can't be written: it is there, and no regular file")
    place = path.with_name(f".{path.name}.{os.urandom(8).hex()}") if replace else path
    try:
        with interrupts_wait():
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                yield place
                if replace:
                    os.replace(place, path)
            except BaseException:
                place.unlink(missing_ok=True)  # Arrow removes what it could not write
                raise
    except OSError as error:
        raise TargetError(f"{path} can't be written: {error.strerror or error}") from error


def write_private(path: Path, text: str, replace: bool) -> None:
    """Write ``text`` to the file ``path``; arguments and errors of ``new_file``."""
    with new_file(path, replace=replace) as place:
        place.write_text(text, encoding="utf-8")

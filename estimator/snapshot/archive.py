"""A snapshot as one file or a stream: a tar archive of the files of the directory.

``tar cf web1.ksm.tar web1.ksm`` makes the same. Nothing is unpacked to a disk.
"""

from __future__ import annotations

import io
import shlex
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO

from estimator.errors import TargetError

STREAM = Path("-")
"""stdin or stdout as the place of a snapshot."""


def is_archive(path: Path) -> bool:
    """Whether a snapshot written to ``path`` is an archive; else it is a directory."""
    return path == STREAM or path.suffix == ".tar"


def write_members(members: Iterable[tuple[str, bytes]], file: IO[bytes], directory: str) -> None:
    """Write ``members`` (name, content) as a tar stream, below ``directory``, for the owner."""
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(f"{directory}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(content))


def read_members(path: Path, wanted: Set[str]) -> dict[str, bytes]:
    """The content of the files ``wanted`` in the archive ``path``, by their names.

    It may be compressed (gzip, bzip2, xz), and may come through a pipe. What else is in it is left
    alone. Raises TargetError for what is no archive, is cut off, or has a file twice, and
    PermissionError.
    """
    found: dict[str, bytes] = {}
    try:
        with (
            nullcontext(sys.stdin.buffer) if path == STREAM else path.open("rb") as file,
            tarfile.open(fileobj=file, mode="r|*") as archive,
        ):
            for name, content in _files(archive):
                if name in found:
                    raise TargetError(f"{path} has two files {name}: is it of two snapshots?")
                if name in wanted:
                    found[name] = content
    except PermissionError:
        raise
    except (OSError, EOFError, tarfile.TarError) as error:
        what = "stdin" if path == STREAM else path
        raise TargetError(
            f"{what} is no snapshot: neither a directory nor a whole tar archive of one ({error})",
            hint=_what_to_do(path),
        ) from error
    return found


def _what_to_do(path: Path) -> str:
    """With what is no archive: a dump is read by another command."""
    head = b""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(8)
    if head.startswith((b"\x7fELF", b"KDUMP   ", b"makedump", b"EMiL", b"AVML")):
        return f"it looks like a dump: ksm-estimator run --core {shlex.quote(str(path))}"
    return "make one with: ksm-estimator collect --core VMCORE -o NAME.ksm.tar"


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        content = archive.extractfile(member) if member.isreg() else None
        if content is not None:
            yield member.name.rpartition("/")[2], content.read()

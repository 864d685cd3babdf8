"""Raw physical memory: files without headers, in pieces whose addresses the user gives."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from estimator.errors import TargetError, UsageError
from estimator.kernel.dump.file import DumpFile, format_of, open_regular
from estimator.kernel.dump.foreign import refuse_foreign
from estimator.kernel.dump.loads import MOST_BYTES, Loads, loads_of

PAGE_BYTES = 4096
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NUMBER = re.compile(r"0x([0-9a-f]+)|(\d+)([KMGT]?)", re.IGNORECASE)
_PIECE = re.compile(
    r"(?P<path>.+)@(?P<address>[^@:+]+)(?::(?P<offset>[^@:+]+)(?:\+(?P<size>[^@:+]+))?)?"
)


@dataclass(frozen=True)
class Piece:
    """``size`` bytes of ``path`` from ``offset`` on are the memory at the physical ``address``.

    Without a size these are all up to the end of the file.
    """

    path: Path
    address: int
    offset: int = 0
    size: int | None = None

    def __str__(self) -> str:
        """As ``piece_of`` reads it."""
        part = f":{self.offset:#x}" if self.offset or self.size is not None else ""
        part += f"+{self.size:#x}" if self.size is not None else ""
        return f"{self.path}@{self.address:#x}{part}"


def piece_of(given: Path) -> Piece | None:
    """What FILE@ADDRESS, FILE@ADDRESS:OFFSET or FILE@ADDRESS:OFFSET+SIZE means; None for a FILE.

    What exists under the name as given is a file. Numbers are decimal, with K, M, G or T for powers
    of 1024, or begin with 0x. Raises UsageError for other numbers, where FILE exists.
    """
    match = _PIECE.fullmatch(str(given))
    if match is None or given.exists():
        return None
    path = Path(match["path"])
    try:
        address, offset, size = (_number(match[name]) for name in ("address", "offset", "size"))
    except ValueError as error:
        if not path.exists():
            return None
        raise UsageError(
            f"{given}: {error} is no number; a piece of memory is FILE@ADDRESS[:OFFSET[+SIZE]]",
            hint=f"for example {path}@0 or {path}@4G:0x80000000",
        ) from error
    return Piece(path, address or 0, offset or 0, size)


def _number(text: str | None) -> int | None:
    """Raises ValueError with what is none."""
    if text is None:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1], 16) if match[1] else int(match[2]) * _UNITS[match[3].upper()]


def inspect_raw(given: Sequence[Piece]) -> DumpFile:
    """The memory that consists of these pieces.

    Raises TargetError if a file can't be read or has headers of its own, UsageError for pieces that
    overlap, or that are not in their file.
    """
    sizes: dict[Path, int] = {}
    for piece in given:
        if piece.path not in sizes:
            sizes[piece.path] = _size(piece)
    pieces = [_within_file(piece, sizes[piece.path]) for piece in given]
    _refuse_overlap(pieces)
    files = [
        DumpFile(path, "raw", size, _loads(piece for piece in pieces if piece.path == path))
        for path, size in sizes.items()
    ]
    files.sort(key=lambda file: int(file.loads["paddr"][0]))
    return DumpFile(
        path=files[0].path,
        format="raw",
        size_bytes=sum(file.size_bytes for file in files),
        loads=files[0].loads,
        parts=tuple(files) if len(files) > 1 else (),
    )


def pieces_of(dump: DumpFile) -> list[Piece]:
    """The pieces of raw memory, file by file; each up to the end of its file without a size."""
    return [
        Piece(file.path, address, offset, None if offset + size == file.size_bytes else size)
        for file in dump.files
        for offset, address, size in file.loads[["offset", "paddr", "filesz"]].tolist()
    ]


def _size(piece: Piece) -> int:
    """Of its file, in bytes. Memory from 0 on does not begin with the header of a dump."""
    with open_regular(piece.path) as (file, size):
        head = file.read(64)
    if not head:
        raise TargetError(f"{piece.path} is empty")
    if piece.address == piece.offset == 0:
        refuse_foreign(piece.path, head)
        if name := format_of(head):
            raise UsageError(
                f"{piece.path} is no raw memory: it has headers of its own ({name})",
                hint=f"try: --core {piece.path}",
            )
    return size


def _within_file(piece: Piece, file_bytes: int) -> Piece:
    """``piece`` with its size. Raises UsageError if it is not in its file, or not of pages."""
    if piece.address % PAGE_BYTES:
        raise UsageError(
            f"{piece}: its address is no multiple of {PAGE_BYTES}",
            hint="a file with a header of N bytes is FILE@0:N",
        )
    size = file_bytes - piece.offset if piece.size is None else piece.size
    if piece.offset >= file_bytes or piece.offset + size > file_bytes:
        raise UsageError(
            f"{piece} ends beyond the end of the file, which has {file_bytes:#x} bytes",
            hint="was it copied completely? Without +SIZE a piece goes up to the end of the file",
        )
    if not 0 < size <= MOST_BYTES or piece.address > MOST_BYTES:
        raise UsageError(f"{piece}: no machine has memory there")
    return replace(piece, size=size)


def _refuse_overlap(pieces: Sequence[Piece]) -> None:
    """Raise UsageError for memory that is in two pieces, or bytes of a file that are in two."""
    in_memory = sorted(pieces, key=lambda piece: piece.address)
    for one, other in itertools.pairwise(in_memory):
        if other.address < one.address + (one.size or 0):
            raise UsageError(
                f"{one} and {other} overlap: both have the memory at {other.address:#x}",
                hint="give each piece its size: --core FILE@ADDRESS:OFFSET+SIZE",
            )
    in_file = sorted(pieces, key=lambda piece: (piece.path, piece.offset))
    for one, other in itertools.pairwise(in_file):
        if one.path == other.path and other.offset < one.offset + (one.size or 0):
            raise UsageError(
                f"{one} and {other} overlap: both have byte {other.offset:#x} of the file",
                hint="where does each piece lie in the file? --core FILE@ADDRESS:OFFSET+SIZE",
            )


def _loads(pieces: Iterable[Piece]) -> Loads:
    return loads_of((piece.offset, piece.address, piece.size or 0) for piece in pieces)

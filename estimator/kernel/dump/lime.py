"""Files of LiME: blocks of physical memory, each behind a header that says where it belongs.

Source: doc/README.md of LiME. AVML's files have the same headers, with another magic and version.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from estimator.errors import TargetError
from estimator.kernel.dump.loads import MOST_BYTES, MOST_LOADS, Loads, loads_of

MAGICS = {"lime": b"EMiL", "avml": b"AVML"}
HEADER_BYTES = 32
_VERSIONS = {"lime": 1, "avml": 2}
_HEADER = struct.Struct("<4sIQQQ")  # magic, version, first and last byte, reserved


def walk(path: Path, file: BinaryIO, size: int) -> tuple[Loads, int]:
    """The blocks of the LiME file ``path`` of ``size`` bytes; how many it lacks at its end.

    Raises TargetError for headers that make no sense.
    """
    pieces = []
    at = 0
    while at + HEADER_BYTES <= size:
        file.seek(at)
        address, length = read_header(path, file.read(HEADER_BYTES), at, "lime")
        pieces.append((at + HEADER_BYTES, address, length))
        at += HEADER_BYTES + length
        if len(pieces) > MOST_LOADS:
            raise TargetError(f"{path} is damaged: more than {MOST_LOADS:,} blocks")
    end = at if at >= size else at + HEADER_BYTES
    return loads_of_blocks(path, pieces), end - size


def read_header(path: Path, raw: bytes, at: int, name: str) -> tuple[int, int]:
    """Physical address and size of a block of a "lime" or "avml" file, from its header at ``at``.

    Raises TargetError if it is none.
    """
    magic, version, first, last, _ = _HEADER.unpack(raw)
    if magic != MAGICS[name]:
        raise TargetError(f"{path} is damaged: no block of memory begins at its byte {at:,}")
    if version != _VERSIONS[name]:
        raise TargetError(
            f"{path} is of version {version} of its format, only {_VERSIONS[name]} is known",
            hint="convert it: avml convert FILE memory.lime",
        )
    if not first <= last < MOST_BYTES:
        raise TargetError(f"{path} is damaged: a block of memory from {first:#x} to {last:#x}")
    return first, last + 1 - first


def loads_of_blocks(path: Path, pieces: list[tuple[int, int, int]]) -> Loads:
    """The table of a file's blocks. Raises TargetError if one has memory of another one too."""
    loads = loads_of(pieces)
    ends = loads["paddr"] + loads["filesz"]
    twice = loads["paddr"][1:][loads["paddr"][1:] < ends[:-1]]
    if len(twice):
        raise TargetError(f"{path} is damaged: it has the memory at {int(twice[0]):#x} twice")
    return loads

"""Raw memory in the files of LiME and AVML, as their tools write them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import cramjam

BLOCK_BYTES = 16 << 20  # AVML's, at most


def lime(blocks: Iterable[tuple[int, bytes]]) -> bytes:
    """A LiME file with these blocks: physical address, content."""
    return b"".join(_header(b"EMiL", 1, *block) + block[1] for block in blocks)


def avml(blocks: Iterable[tuple[int, bytes]]) -> bytes:
    """An AVML file with these blocks; none is larger than ``BLOCK_BYTES``."""
    parts = []
    for address, data in blocks:
        for start in range(0, len(data), BLOCK_BYTES):
            piece = data[start : start + BLOCK_BYTES]
            stream = bytes(cramjam.snappy.compress(piece))
            header = _header(b"AVML", 2, address + start, piece)
            parts.append(header + stream + struct.pack("<Q", len(stream)))
    return b"".join(parts)


def _header(magic: bytes, version: int, address: int, data: bytes) -> bytes:
    return magic + struct.pack("<IQQQ", version, address, address + len(data) - 1, 0)

"""Files of AVML: blocks of physical memory, each compressed as a stream of snappy frames.

Source: src/image.rs and src/io/snappy.rs of AVML; framing_format.txt of snappy. A block has a
header like LiME's, then the stream, then the length of the stream in 8 bytes.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from estimator.errors import ResourceError, TargetError
from estimator.kernel.dump.lime import HEADER_BYTES, loads_of_blocks, read_header
from estimator.kernel.dump.loads import MOST_LOADS, Loads

_LENGTH_BYTES = 8  # behind the stream
_STREAM = b"\xff\x06\x00\x00sNaPpY"
_COMPRESSED, _PLAIN, _FIRST_SKIPPED = 0x00, 0x01, 0x80
_CHECKSUM_BYTES = 4
_MOST_FRAME_BYTES = 1 << 16
_RUN_BYTES = 4 << 20  # unpacked in one go
_GIB = 1 << 30


@dataclass
class _Block:
    """``address``, ``size``: of the memory. ``runs``: where its frames begin and end, together."""

    address: int
    size: int
    runs: list[tuple[int, int]] = field(default_factory=list)


class Unpacked:
    """The memory of an AVML file, in a file without a name that goes with this object."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def open(self) -> BinaryIO:
        """It as a file, unbuffered; the place in it is the same for all."""
        return os.fdopen(os.dup(self._descriptor), "rb", buffering=0)


def walk(path: Path, file: BinaryIO, size: int) -> tuple[Loads, int]:
    """The blocks of the AVML file ``path`` of ``size`` bytes; how many it lacks at its end.

    Their offsets are in what ``unpack`` makes of it. Raises TargetError for headers and frames that
    make no sense.
    """
    blocks, missing = _walk(path, file, size)
    pieces, offset = [], 0
    for block in blocks:
        pieces.append((offset, block.address, block.size))
        offset += block.size
    return loads_of_blocks(path, pieces), missing


def unpack(path: Path) -> Unpacked:
    """Unpack the AVML file ``path`` into a file that nobody else can open.

    It lies in $TMPDIR, else /var/tmp, and is as large as the memory. Raises TargetError without the
    library for it and for damaged frames, ResourceError where there is no room.
    """
    try:
        from cramjam import DecompressionError, snappy
    except ImportError as error:
        raise TargetError(
            f"{path} is compressed with snappy, which needs {error.name}",
            hint="pip install cramjam",
        ) from error
    with path.open("rb") as file:
        blocks, _ = _walk(path, file, os.fstat(file.fileno()).st_size)
        with _room_for(path, sum(block.size for block in blocks)) as unpacked:
            for start, end in (run for block in blocks for run in block.runs):
                file.seek(start)
                try:
                    unpacked.write(snappy.decompress(_STREAM + file.read(end - start)))
                except DecompressionError as error:
                    raise TargetError(
                        f"{path} is damaged: its bytes from {start:,} to {end:,} can't be unpacked"
                    ) from error
            unpacked.flush()
            return Unpacked(unpacked)


@contextmanager
def _room_for(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file without a name for the ``size`` bytes that ``path`` unpacks to, for the body."""
    place = os.environ.get("TMPDIR", "/var/tmp")
    free = shutil.disk_usage(place).free
    lacks = ResourceError(
        f"{path} unpacks to {size / _GIB:,.1f} GiB, {place} has room for {free / _GIB:,.1f} GiB",
        hint="name a larger place: TMPDIR=DIRECTORY ksm-estimator ...",
    )
    if free < size:
        raise lacks
    try:
        with tempfile.TemporaryFile(dir=place) as unpacked:
            yield unpacked
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise lacks from error


def _walk(path: Path, file: BinaryIO, size: int) -> tuple[list[_Block], int]:
    """All blocks as far as the file goes, and how many bytes it lacks at its end, at least."""
    blocks: list[_Block] = []
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        at = 0
        while at + HEADER_BYTES <= size:
            header = data[at : at + HEADER_BYTES]
            block = _Block(*read_header(path, header, at, "avml"))
            blocks.append(block)
            at = _walk_frames(path, data, at + HEADER_BYTES, block) + _LENGTH_BYTES
            if len(blocks) > MOST_LOADS:
                raise TargetError(f"{path} is damaged: more than {MOST_LOADS:,} blocks")
    end = at if at >= size else at + HEADER_BYTES
    return blocks, end - size


def _walk_frames(path: Path, data: mmap.mmap, at: int, block: _Block) -> int:
    """Note the frames of ``block`` from ``at`` on in its ``runs``; where they end.

    That is beyond the end of ``data`` if the file is cut off in one; this one is not noted.
    """
    done, start, unpacked = 0, at, 0
    while done + unpacked < block.size:
        head = data[at : at + 4 + _CHECKSUM_BYTES + 3]
        end = at + 4 + int.from_bytes(head[1:4], "little") if len(head) >= 4 else at + 4
        if end > len(data):
            break
        size = _unpacked_bytes(head, end - at - 4)
        if not 0 <= size <= _MOST_FRAME_BYTES or done + unpacked + size > block.size:
            raise TargetError(f"{path} is damaged: no snappy frame begins at its byte {at:,}")
        at, unpacked = end, unpacked + size
        if max(unpacked, at - start) >= _RUN_BYTES:
            block.runs.append((start, at))
            done, start, unpacked = done + unpacked, at, 0
    else:
        end = at
    if unpacked:
        block.runs.append((start, at))
    return end


def _unpacked_bytes(head: bytes, length: int) -> int:
    """What a frame unpacks to, by its first bytes and its length behind the first four; -1: none.

    A compressed one says it behind its checksum, seven bits a byte.
    """
    kind = head[0]
    if kind == _COMPRESSED:
        size = 0
        for place, byte in enumerate(head[4 + _CHECKSUM_BYTES :]):
            size |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return size
        return -1
    if kind == _PLAIN:
        return length - _CHECKSUM_BYTES
    return 0 if kind >= _FIRST_SKIPPED else -1

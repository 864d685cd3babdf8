"""Dumps without some frames, as a makedumpfile that knows the kernel would have written them.

Debian 12's takes pages of slabs for user pages since 6.10, and leaves them out as well. No page is
moved in the file: what is left out is only found no more.
"""

from __future__ import annotations

import shutil
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np

from estimator.arrays import Words
from estimator.kernel.dump.file import inspect
from tests.lab.apt import LabError

_DESCRIPTOR_BYTES, _LEVEL_OFFSET = 24, 8
_PT_LOAD, _PAGE_SHIFT = 1, 12
_PHDR = np.dtype(
    [("type", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("vaddr", "<u8"), ("paddr", "<u8")]
    + [("filesz", "<u8"), ("memsz", "<u8"), ("align", "<u8")]
)


def leave_out_of_kdump(core: Path, copy: Path, pfns: Words, level: int) -> None:
    """``copy`` of a kdump file without the frames ``pfns``; ``level`` is what its header says."""
    header = inspect(core).kdump
    if header is None:
        raise LabError(f"{core} is no kdump file")
    data = np.fromfile(core, np.uint8)
    bitmap = data[header.bitmap_offset :][: header.bitmap_bytes]
    bits = np.unpackbits(bitmap, bitorder="little")
    dumped = np.flatnonzero(bits)
    bits[pfns] = 0
    bitmap[:] = np.packbits(bits, bitorder="little")
    descriptors = data[header.bitmap_offset + header.bitmap_bytes :]
    table = descriptors[: len(dumped) * _DESCRIPTOR_BYTES].reshape(-1, _DESCRIPTOR_BYTES)
    kept = table[bits[dumped] != 0].copy()
    table[:] = 0
    table[: len(kept)] = kept
    data[header.block_bytes + _LEVEL_OFFSET :][:4] = np.frombuffer(struct.pack("<i", level), "u1")
    data.tofile(copy)


def leave_out_of_elf(core: Path, copy: Path, pfns: Words) -> None:
    """``copy`` of an ELF dump whose segments have gaps where the frames ``pfns`` were."""
    shutil.copyfile(core, copy)
    with copy.open("r+b") as file:
        header = bytearray(file.read(64))
        (offset,), (count,) = (
            struct.unpack_from("<Q", header, 32),
            struct.unpack_from("<H", header, 56),
        )
        file.seek(offset)
        programs = np.frombuffer(file.read(count * _PHDR.itemsize), _PHDR)
        loads = programs[programs["type"] == _PT_LOAD]
        pieces = [piece for load in loads for piece in _with_gaps(load, pfns)]
        others = programs[programs["type"] != _PT_LOAD]
        written = np.concatenate([others, np.array(pieces, _PHDR)])
        struct.pack_into("<QQ", header, 32, file.seek(0, 2), 0)
        struct.pack_into("<HHHH", header, 56, len(written), 0, 0, 0)
        file.write(written.tobytes())
        file.seek(0)
        file.write(header)


def _with_gaps(load: np.void, pfns: Words) -> list[tuple[int, ...]]:
    """The PT_LOADs instead of ``load``: what is kept, and behind it the memory left out."""
    first, pages = int(load["paddr"]) >> _PAGE_SHIFT, int(load["filesz"]) >> _PAGE_SHIFT
    kept = np.ones(pages, np.bool_)
    place = pfns.astype(np.int64) - first
    kept[place[(place >= 0) & (place < pages)]] = False
    edges = np.flatnonzero(np.diff(kept.astype(np.int8))) + 1
    runs = [(begin, end) for begin, end in pairwise([0, *edges.tolist(), pages]) if begin < end]
    found: list[tuple[int, ...]] = []
    for begin, end in runs:
        size, at = (end - begin) << _PAGE_SHIFT, begin << _PAGE_SHIFT
        there = size if kept[begin] else 0
        virtual = int(load["vaddr"]) + at if load["vaddr"] else 0
        where = (int(load["offset"]) + at, virtual, int(load["paddr"]) + at)
        found.append((_PT_LOAD, int(load["flags"]), *where, there, size, int(load["align"])))
    return found

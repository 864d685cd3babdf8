"""A dump by QEMU in the format of kdump, as makedumpfile -c writes it; of arm64 QEMU can't itself.

Debian's makedumpfile refuses Debian's kernels of arm64, see docs/kernels.md.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.kernel.dump.file import inspect

_VERSION = 6
_NAME = b"VMCOREINFO\0"
_ZLIB, _LEVEL = 1, 1
_DESCRIPTOR = struct.Struct("<QIIQ")


def as_kdump(core: Path, destination: Path, machine: str, page_bytes: int) -> None:
    """Write the ELF dump ``core`` of QEMU as a kdump file with blocks of ``page_bytes``.

    ``machine``: as in ``uname -m``. All zero pages share one place in the file.
    """
    loads = inspect(core).loads
    pages = np.concatenate([_pages(core, load, page_bytes) for load in loads])
    pfns = pages["pfn"].tolist()
    frames = pfns[-1] + 1
    bitmap = np.zeros(-(-frames // (8 * page_bytes)) * 8 * page_bytes, np.uint8)
    bitmap[pfns] = 1
    bits = np.packbits(bitmap, bitorder="little").tobytes()
    start = _headers(core, machine, page_bytes, frames, 2 * len(bits) // page_bytes) + 2 * bits
    data = len(start) + len(pfns) * _DESCRIPTOR.size
    zero = zlib.compress(bytes(page_bytes), _LEVEL)
    descriptors = [_DESCRIPTOR.pack(data, len(zero), _ZLIB, 0)] * len(pfns)
    with core.open("rb") as source, destination.open("wb") as file:
        memory = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ)
        file.seek(data)
        file.write(zero)
        for number in np.flatnonzero(pages["filled"]).tolist():
            at = int(pages["offset"][number])
            page = memory[at : at + page_bytes]
            packed = zlib.compress(page, _LEVEL)
            flags, stored = (_ZLIB, packed) if len(packed) < page_bytes else (0, page)
            descriptors[number] = _DESCRIPTOR.pack(file.tell(), len(stored), flags, 0)
            file.write(stored)
        file.seek(0)
        file.write(start + b"".join(descriptors))


def _pages(core: Path, load: np.void, page_bytes: int) -> npt.NDArray[np.void]:
    """Of one segment: pfn, place in ``core``, and whether there is more than zeroes in it."""
    count = int(load["filesz"]) // page_bytes
    shape = (count, page_bytes // 8)
    words = np.memmap(core, "<u8", "r", int(load["offset"]), shape)
    found = np.empty(count, [("pfn", "<u8"), ("offset", "<u8"), ("filled", "?")])
    found["pfn"] = int(load["paddr"]) // page_bytes + np.arange(count)
    found["offset"] = int(load["offset"]) + np.arange(count) * page_bytes
    found["filled"] = words.any(axis=1)
    return found


def _headers(core: Path, machine: str, page_bytes: int, frames: int, bitmap_blocks: int) -> bytes:
    """disk_dump_header and kdump_sub_header, one block each, and a block with VMCOREINFO."""
    prog = Program()
    prog.set_core_dump(core)
    text: bytes = prog["VMCOREINFO"].string_()
    note = struct.pack("<III12s", len(_NAME), len(text), 0, _NAME) + text.ljust(
        -(-len(text) // 4) * 4
    )
    header = struct.pack("<8si", b"KDUMP   ", _VERSION) + bytes(4 * 65)
    header = (header + machine.encode()).ljust(424, b"\0")
    header += struct.pack("<IiiII", _ZLIB, page_bytes, 2, bitmap_blocks, frames)
    at = 2 * page_bytes
    sub = struct.pack("<32xQQQQ", at + 24, len(text), at, len(note))
    sub += struct.pack("<16xQQQ", 0, 0, frames)
    return b"".join(part.ljust(page_bytes, b"\0") for part in (header, sub, note))

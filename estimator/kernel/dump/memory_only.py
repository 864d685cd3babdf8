"""Memory without a dump's headers as a drgn Program; and what is wrong where no kernel is in it."""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from drgn import FaultError, Platform, Program

from estimator.errors import EstimatorError, TargetError, UsageError
from estimator.kernel.dump.file import DumpFile
from estimator.kernel.dump.find_vmcoreinfo import (
    START,
    FoundVmcoreinfo,
    MappedPiece,
    mapped,
)
from estimator.kernel.dump.raw import PAGE_BYTES, Piece

_UTS_NAME = re.compile(rb"^OFFSET\(uts_namespace\.name\)=(\d+)$", re.MULTILINE)
_UTS_FIELD_BYTES = 65  # of struct new_utsname: sysname, nodename, release ...


def open_memory(dump: DumpFile, platform: Platform, vmcoreinfo: bytes) -> Program:
    """The memory of ``dump`` as a Program without symbols. Raises whatever drgn does.

    What is in no piece can't be read.
    """
    prog = Program(platform)
    for file in dump.files:
        with file.open() as source:
            data = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ)
        for start, address, size in file.loads[["offset", "paddr", "filesz"]].tolist():
            prog.add_memory_segment(address, size, _reader(data, start), physical=True)
    prog.set_linux_kernel_custom(vmcoreinfo, is_live=False)
    return prog


def _reader(data: mmap.mmap, start: int) -> Callable[[int, int, int, bool], bytes]:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        content = data[start + offset : start + offset + count]
        if len(content) < count:
            raise FaultError("memory is beyond the end of the file", address)
        return content

    return read


def why_no_kernel(dump: DumpFile) -> EstimatorError:
    """Why ``find_vmcoreinfo`` found none in ``dump``, which has no headers of a dump.

    If it is there, but does not lead to the kernel, the address of a piece is wrong; where the
    kernel's release is in the file tells the right one.
    """
    if dump.cut:
        return TargetError(f"{dump.cut}, and no Linux kernel was found in it (no VMCOREINFO)")
    with mapped(dump) as pieces:
        places = [
            (piece, at, piece.vmcoreinfo_at(at)) for piece in pieces for at in piece.find(START)
        ]
        led_astray = [place for place in places if place[2].release and place[2].uts_address]
        if not led_astray:
            return TargetError(
                f"{dump.name}: no Linux kernel of x86_64 was found in this memory (no VMCOREINFO)",
                hint="is it all of the memory, neither packed nor encrypted?",
            )
        piece, at, found = min(led_astray, key=lambda place: place[2].address % PAGE_BYTES)
        message = (
            f"the VMCOREINFO of kernel {found.release.decode()} is in {piece.path} at byte {at:#x},"
            f" but the kernel is not at physical {found.uts_address:#x}, as it says"
        )
        if dump.format != "raw":
            return TargetError(message, hint="is it damaged, or a part of the memory only?")
        corrections = Counter(chain.from_iterable(_corrections(pieces, *p) for p in led_astray))
    if not corrections:
        return UsageError(message, hint="give every piece of memory: --core FILE@ADDRESS ...")
    right = corrections.most_common(1)[0][0]
    others = ", and the other pieces as before" if len(pieces) > 1 else ""
    return UsageError(message, hint=f"try: --core {right}{others}")


def _corrections(
    pieces: Sequence[MappedPiece], holder: MappedPiece, at: int, found: FoundVmcoreinfo
) -> Iterator[Piece]:
    """Pieces with the address that makes ``found``, at the place ``at`` of ``holder``, right.

    The kernel is in the piece that has ``struct uts_namespace`` with its release; both are moved
    together where they are in one file, and VMCOREINFO begins a page.
    """
    name = _UTS_NAME.search(found.text)
    release_offset = 2 * _UTS_FIELD_BYTES + (int(name[1]) if name else 0)
    for piece in pieces:
        for place in piece.find(found.release + b"\0"):
            sysname = place - 2 * _UTS_FIELD_BYTES
            if piece.data[max(sysname, 0) : place].rstrip(b"\0")[:6] != b"Linux\0":
                continue
            shift = (found.uts_address or 0) - (place - release_offset)
            if (shift + at if piece.data is holder.data else shift) % PAGE_BYTES:
                continue
            address = shift + piece.start
            size = None if piece.end == len(piece.data) else piece.end - piece.start
            if address >= 0:
                yield Piece(piece.path, address, piece.start, size)
            else:
                yield Piece(piece.path, 0, -shift)

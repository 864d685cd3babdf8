"""Where the kernel has memory, against the pieces of raw memory that were named.

PCs have none in the hole below 4 GiB, and a file of a guest's memory goes on behind it without one:
with a wrong address the upper part would be read as other pages than it is.
"""

from __future__ import annotations

import numpy as np
from drgn import FaultError, Program

from estimator.errors import NoDebugInfoError, TargetError, UsageError
from estimator.kernel.arch.x86_64 import PAGE_SHIFT
from estimator.kernel.dump.file import DumpFile
from estimator.kernel.dump.find_vmcoreinfo import KERNEL_MAP, FoundVmcoreinfo
from estimator.kernel.dump.raw import Piece, pieces_of
from estimator.kernel.kallsyms import read_kallsyms
from estimator.kernel.memory.intervals import Intervals, between, disjoint

_HOLE_END = 4 << 30
_LOW_BYTES = 1 << 20  # firmware's; often not saved
_MOST_IMAGE_BYTES = 1 << 30  # KERNEL_IMAGE_SIZE
_MOST_LEFT_OUT = 256 << 20  # reserved by the firmware, or not saved: nobody's mistake
_MIB = 1 << 20


def memory_map(prog: Program, found: FoundVmcoreinfo) -> Intervals | None:
    """The physical memory in the direct map, in bytes; None if the kernel does not tell it.

    arch/x86/mm/init.c, add_pfn_range_mapped(). Both that and kallsyms lie in the kernel image,
    which is read without page tables: these may be where a wrong address makes them unreadable.
    """
    shift = found.image_shift
    if shift is None:
        return None

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return prog.read(address + shift, count, True)

    image = Program(prog.platform)
    image.set_linux_kernel_custom(found.text, is_live=False)
    image.add_memory_segment(KERNEL_MAP, _MOST_IMAGE_BYTES, read)
    try:
        kallsyms = read_kallsyms(image)
        places = kallsyms.address("pfn_mapped"), kallsyms.address("nr_pfn_mapped")
        if places[0] is None or places[1] is None:
            return None
        count = image.read_u32(places[1])
        if not 0 < 16 * count <= kallsyms.most_bytes("pfn_mapped"):
            return None
        words = np.frombuffer(image.read(places[0], 16 * count), np.uint64)
    except (NoDebugInfoError, TargetError, FaultError):
        return None
    start, end = words.reshape(-1, 2).T << np.uint64(PAGE_SHIFT)
    return disjoint(start, end, start)[0]


def missing_memory(dump: DumpFile, there: Intervals | None) -> str:
    """What of the memory ``there`` is in none of the pieces of ``dump``, a sentence or "".

    Raises UsageError where the pieces have memory that is not there in its place.
    """
    if there is None:
        return ""
    rows = [row for file in dump.files for row in file.loads[["paddr", "filesz"]].tolist()]
    start, size = np.array(rows, np.uint64).T
    pieces, _ = disjoint(start, start + size, start)
    missing = _ranges(there, pieces)
    if not missing:
        return ""
    _refuse_without_hole(dump, there)
    misplaced = _ranges(pieces, there)
    if min(_size(missing), _size(misplaced)) > _MOST_LEFT_OUT:
        raise UsageError(
            f"this machine has no memory at {_say(misplaced)}, as named, but at {_say(missing)}",
            hint="name each piece with its own address: --core FILE@ADDRESS:OFFSET+SIZE",
        )
    return f"{_size(missing) / _MIB:,.0f} MiB of this kernel's memory are in no piece: " + (
        _say(missing)
    )


def _ranges(outer: Intervals, inner: Intervals) -> list[tuple[int, int]]:
    """Start and size of what lies in ``outer`` only, above the lowest megabyte."""
    return [piece for piece in between(outer, inner) if sum(piece) > _LOW_BYTES]


def _size(ranges: list[tuple[int, int]]) -> int:
    return sum(size for _, size in ranges)


def _say(ranges: list[tuple[int, int]]) -> str:
    more = ", ..." if len(ranges) > 3 else ""
    return ", ".join(f"{start:#x} to {start + size - 1:#x}" for start, size in ranges[:3]) + more


def _refuse_without_hole(dump: DumpFile, there: Intervals) -> None:
    """Raise UsageError if one file has as much as there is, but not parted where the hole is."""
    if len(dump.files) > 1:
        return
    offset = int(dump.loads["offset"].min())
    behind = int((dump.loads["offset"] + dump.loads["filesz"]).max())
    end = int(there.end[-1])
    low = behind - offset - (end - _HOLE_END)
    lower_end = int(there.end[there.end <= _HOLE_END].max(initial=0))
    if end > _HOLE_END and lower_end <= low < _HOLE_END:
        size = None if behind == dump.size_bytes else behind - offset - low
        lower = Piece(dump.path, 0, offset, low)
        upper = Piece(dump.path, _HOLE_END, offset + low, size)
        given = " and ".join(str(piece) for piece in pieces_of(dump))
        raise UsageError(
            f"{given}: this machine has a hole in its memory from {low:#x} to 4 GiB, "
            "the file has none",
            hint=f"try: --core {lower} --core {upper}",
        )

"""Where the kernel has memory, against the pieces of raw memory that were named.

PCs have none in the hole below 4 GiB, and a file of a guest's memory goes on behind it without one:
with a wrong address the upper part would be read as other pages than it is.
"""

from __future__ import annotations

import itertools

import numpy as np
from drgn import Program

from estimator.errors import UsageError
from estimator.kernel.dump.file import DumpFile
from estimator.kernel.dump.raw import Piece, pieces_of
from estimator.kernel.memory.intervals import Intervals, between, disjoint

_HOLE_END = 4 << 30
_LOW_BYTES = 1 << 20  # firmware's; often not saved
_MIB = 1 << 20


def memory_map(prog: Program) -> Intervals | None:
    """The physical memory in the direct map, in bytes; None if the kernel does not tell it.

    arch/x86/mm/init.c, add_pfn_range_mapped().
    """
    try:
        ranges, count = prog["pfn_mapped"], int(prog["nr_pfn_mapped"])
    except LookupError:
        return None
    pairs = [(int(ranges[n].start), int(ranges[n].end)) for n in range(count)]
    start, end = np.array(pairs, np.uint64).reshape(-1, 2).T << np.uint64(12)
    return disjoint(start, end, start)[0]


def missing_memory(dump: DumpFile, there: Intervals | None) -> tuple[str, ...]:
    """What of the memory ``there`` is in none of the pieces of ``dump``, in a sentence.

    Raises UsageError if a piece must be in two instead, with a hole between them.
    """
    if there is None:
        return ()
    loads = [file.loads[["paddr", "filesz"]].tolist() for file in dump.files]
    given = np.array(list(itertools.chain.from_iterable(loads)), np.uint64)
    start, size = given.T
    pieces, _ = disjoint(start, start + size, start)
    missing = [
        (start, start + size) for start, size in between(there, pieces) if start + size > _LOW_BYTES
    ]
    if not missing:
        return ()
    _refuse_without_hole(dump, there)
    size_mib = sum(end - start for start, end in missing) / _MIB
    places = ", ".join(f"{start:#x} to {end - 1:#x}" for start, end in missing[:3])
    more = ", ..." if len(missing) > 3 else ""
    return (f"{size_mib:,.0f} MiB of this kernel's memory are in no piece: {places}{more}",)


def _refuse_without_hole(dump: DumpFile, there: Intervals) -> None:
    """Raise UsageError if the only piece has as much as there is, but without the hole."""
    pieces, end = pieces_of(dump), int(there.end[-1])
    size = int(dump.loads["filesz"][0])
    low = size - (end - _HOLE_END)
    lower_end = int(there.end[there.end <= _HOLE_END].max(initial=0))
    if len(pieces) == 1 and end > _HOLE_END and lower_end <= low < _HOLE_END:
        (piece,) = pieces
        lower = Piece(piece.path, 0, piece.offset, low)
        upper = Piece(piece.path, _HOLE_END, piece.offset + low, piece.size and piece.size - low)
        raise UsageError(
            f"{piece}: this machine has a hole in its memory below 4 GiB, the file has none",
            hint=f"try: --core {lower} --core {upper}",
        )

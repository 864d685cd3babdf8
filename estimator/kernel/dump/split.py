"""A dump in several files, read as one: ``makedumpfile --split`` writes such."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from drgn import Platform, Program

from estimator.errors import CannotAnswerError, UsageError
from estimator.kernel.dump.file import DumpFile, inspect
from estimator.kernel.dump.kdump_headers import KdumpHeader
from estimator.kernel.dump.raw import inspect_raw, piece_of


def inspect_dump(paths: Sequence[Path]) -> DumpFile:
    """Look at the headers of a dump: of its only file, or of all files of a split one.

    Or at raw memory, where ``paths`` are pieces as ``raw.piece_of`` reads them. The order of
    ``paths`` does not matter. Raises TargetError if one is no kernel dump, UsageError if they are
    not of one dump.
    """
    pieces = [piece for path in paths if (piece := piece_of(path))]
    if pieces:
        if len(pieces) < len(paths):
            raise UsageError(
                f"{pieces[0]} is a piece of raw memory, and not all that is named is",
                hint="name one dump, or raw memory as --core FILE@ADDRESS for each piece",
            )
        return inspect_raw(pieces)
    files = [inspect(path) for path in paths]
    if len(files) == 1 and not (files[0].kdump and files[0].kdump.split):
        return files[0]
    parts = sorted(files, key=lambda file: (_header(file).start_pfn, _header(file).end_pfn))
    first, header = parts[0], _header(parts[0])
    for part in parts[1:]:
        other = _header(part)
        if other.moment != header.moment or other.level != header.level:
            raise UsageError(f"{first.path} and {part.path} are parts of different dumps")
    for part, following in itertools.pairwise(parts):
        pfn = _header(following).start_pfn
        if pfn < _header(part).end_pfn:
            raise UsageError(
                f"{part.path} and {following.path} overlap: both have the frame {pfn:#x}"
            )
    return DumpFile(
        path=first.path,
        format=first.format,
        size_bytes=sum(part.size_bytes for part in parts),
        loads=first.loads,
        kdump=header,
        missing_bytes=sum(part.missing_bytes for part in parts),
        cut="; ".join(part.cut for part in parts if part.cut),
        parts=tuple(parts),
    )


def refuse_missing_parts(dump: DumpFile) -> None:
    """Raise CannotAnswerError if frames of a split dump are in none of its files."""
    if not dump.parts or dump.memory_only:
        return
    headers = [_header(part) for part in dump.parts]
    ends = [0, *(header.end_pfn for header in headers)]
    starts = [*(header.start_pfn for header in headers), headers[0].max_mapnr]
    gaps = [
        f"{end:#x} to {start - 1:#x}"
        for end, start in zip(ends, starts, strict=True)
        if end < start
    ]
    if gaps:
        raise CannotAnswerError(
            f"{dump.name}: only a part of a split dump, without the frames {', '.join(gaps)}",
            hint="give all parts: --core PART1 --core PART2 ..., "
            "or join them: makedumpfile --reassemble PART1 PART2 ... vmcore",
        )


def open_parts(parts: Sequence[DumpFile], platform: Platform | None) -> Program:
    """The files of a split dump as one Program. Raises whatever drgn does.

    drgn opens each by itself; here they become the physical memory of another Program, which
    finds kernel addresses by the page tables, in whichever file these are.
    """
    programs = []
    for part in parts:
        programs.append(Program(platform))
        programs[-1].set_core_dump(part.path)
    whole = Program(programs[0].platform)
    for part, program in zip(parts, programs, strict=True):
        header = _header(part)
        if size := (header.end_pfn - header.start_pfn) * header.block_bytes:
            start = header.start_pfn * header.block_bytes
            whole.add_memory_segment(start, size, _reader(program), physical=True)
    whole.set_linux_kernel_custom(programs[0]["VMCOREINFO"].string_(), is_live=False)
    return whole


def _reader(program: Program) -> Callable[[int, int, int, bool], bytes]:
    return lambda address, count, offset, physical: program.read(address, count, True)


def _header(file: DumpFile) -> KdumpHeader:
    if file.kdump is None or not file.kdump.split:
        raise UsageError(
            f"{file.path} is no part of a split dump",
            hint="several --core name the files of one makedumpfile --split, or pieces of raw "
            "memory: --core FILE@ADDRESS",
        )
    return file.kdump

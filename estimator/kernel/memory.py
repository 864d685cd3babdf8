"""Physical memory in bulk: frames by PFN, structs by address, thousands in one call.

Whatever can't be read is reported as such; it never comes back as zeroes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import BadDataError, FaultError, Program
from drgn.helpers.linux.mm import phys_to_virt

from estimator.facts import Unknown
from estimator.kernel.dumpfile import DumpFile
from estimator.kernel.intervals import Mask, Words, between, disjoint, runs
from estimator.kernel.kdump import KdumpPages

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
_RUN_PAGES = 256  # what is read is copied: 1 MiB at a time keeps the copy in the cache
_BRIDGED_PAGES = 3  # as fast to read as to leave out
_NEAR_BYTES = 1 << 16  # structs that lie together are read together
_NEAR_MEMBER = 64  # bytes from one member to the next: a cache line

READ_ERRORS = (FaultError, BadDataError, OSError, OverflowError)
"""What a failed read raises: OSError from a running kernel, OverflowError for a wild pointer."""

Bytes = npt.NDArray[np.uint8]
Content = Bytes | bytes | memoryview


class Memory:
    """Reads through drgn; works for every target.

    ``moving``: what is read may change meanwhile. ``piece_pages``: how many frames to read and hash
    in one go.
    """

    moving = False
    piece_pages = 4096

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.direct_map = int(phys_to_virt(prog, 0).value_())

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """The contents of the frames ``pfns``, u8 (n, 4096), and why not: ``Unknown``, u8 (n,).

        Fast where ``pfns`` has long ascending runs. Rows of unknown frames are undefined.
        """
        data = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        unknown = np.zeros(len(pfns), np.uint8)
        for start, stop in runs(pfns, _RUN_PAGES):
            self._read_run(int(pfns[start]), data[start:stop], unknown[start:stop])
        return data, unknown

    def unknown(self, pfns: Words) -> Bytes:
        """Why the frames ``pfns`` can't be read as far as known beforehand, u8 (n,)."""
        return np.zeros(len(pfns), np.uint8)

    def contents(self, pfns: Words) -> tuple[Iterable[Content], Bytes]:
        """The contents of those frames of ``pfns`` that are not known as unknown, in order.

        4096 bytes each, to be used before the next one is taken. And ``Unknown`` codes, u8 (n,), as
        in ``frames``: known as they are returned, certain when all contents have been taken.
        """
        data, unknown = self.frames(pfns)
        return data[unknown == Unknown.HASHED], unknown

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """The structs at the kernel addresses ``addresses``, (n,) of ``dtype``; which were read.

        Bytes that belong to none of its members may be left out. Structs that could not be read are
        zero-filled and False in the mask.
        """
        size = dtype.itemsize
        data = np.zeros((len(addresses), size), np.uint8)
        ok = np.ones(len(addresses), np.bool_)
        order = np.argsort(addresses)
        for start, stop in runs(addresses[order], _NEAR_BYTES, PAGE_SIZE):
            rows = order[start:stop]
            place = (addresses[rows] - addresses[rows[0]]).view(np.int64)
            near = np.empty(int(place[-1]) + size, np.uint8)
            if self.virtual_run(int(addresses[rows[0]]), near):
                data[rows] = np.lib.stride_tricks.sliding_window_view(near, size)[place]
            else:
                for row in rows.tolist():
                    ok[row] = self.virtual_run(int(addresses[row]), data[row])
        return data.view(dtype)[:, 0], ok

    def words(self, physical: Words) -> tuple[Words, Mask]:
        """The aligned 64-bit words at the addresses ``physical``, u64 (n,); which could be read."""
        data, ok = self.within_frames(physical, 8)
        return data.view(np.uint64)[:, 0], ok

    def within_frames(self, physical: Words, size: int) -> tuple[Bytes, Mask]:
        """``size`` bytes at each of the addresses ``physical``, u8 (n, size); which were read.

        None goes beyond its frame. Each frame is read once; what could not be read is zero-filled.
        """
        data, ok = np.zeros((len(physical), size), np.uint8), np.zeros(len(physical), np.bool_)
        pfns, where = np.unique(physical >> np.uint64(PAGE_SHIFT), return_inverse=True)
        offset = (physical & np.uint64(PAGE_SIZE - 1)).astype(np.int64)
        order = np.argsort(where, kind="stable")
        bounds = np.searchsorted(where[order], np.arange(len(pfns) + 1))
        for first in range(0, len(pfns), _RUN_PAGES):
            frames, unknown = self.frames(pfns[first : first + _RUN_PAGES])
            row = order[bounds[first] : bounds[first + len(frames)]]
            frame = where[row] - first
            data[row] = frames[frame[:, None], offset[row, None] + np.arange(size)]
            ok[row] = unknown[frame] == Unknown.HASHED
        data[~ok] = 0
        return data, ok

    def virtual_run(self, address: int, data: Bytes) -> bool:
        """Fill ``data`` from the kernel address ``address`` on; False if that failed."""
        try:
            data[:] = np.frombuffer(self.prog.read(address, data.size), np.uint8)
        except READ_ERRORS:
            return False
        return True

    def _read_run(self, pfn: int, data: Bytes, unknown: Bytes) -> None:
        """Read a run of frames; where it fails, halve it until the frames at fault are found."""
        try:
            raw = self.prog.read(pfn << PAGE_SHIFT, data.size, True)
        except READ_ERRORS as error:
            if len(data) == 1:
                excluded = "Excluded page" in str(error)
                unknown[0] = Unknown.EXCLUDED if excluded else Unknown.UNREADABLE
                return
            half = len(data) // 2
            self._read_run(pfn, data[:half], unknown[:half])
            self._read_run(pfn + half, data[half:], unknown[half:])
        else:
            data[:] = np.frombuffer(raw, np.uint8).reshape(data.shape)


class MappedElf(Memory):
    """An ELF dump, mapped: no copy through drgn, and gaps in the file are known as gaps.

    Contents of frames are read, not mapped: the kernel copies a page faster than it maps one.
    """

    piece_pages = 16_384  # their struct pages fit the cache

    def __init__(self, prog: Program, dump: DumpFile) -> None:
        super().__init__(prog)
        self._descriptor = os.open(dump.path, os.O_RDONLY)
        self._file = _map(self._descriptor)
        self._buffer = memoryview(_aligned(_RUN_PAGES * PAGE_SIZE))
        self._rows = [
            self._buffer[start : start + PAGE_SIZE]
            for start in range(0, len(self._buffer), PAGE_SIZE)
        ]
        start, length, offset = (
            dump.loads[field].astype(np.uint64) for field in ("paddr", "filesz", "offset")
        )
        self._in_file, self._offset = disjoint(start, start + length, offset)
        self._in_memory, _ = disjoint(start, start + dump.loads["memsz"].astype(np.uint64), offset)
        self._forbid_gaps(dump.loads)

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """See ``Memory.frames``; the order of ``pfns`` does not matter."""
        offsets, unknown = self._locate(pfns << np.uint64(PAGE_SHIFT), PAGE_SIZE)
        return self._gather(offsets, PAGE_SIZE), unknown

    def contents(self, pfns: Words) -> tuple[Iterable[Content], Bytes]:
        """See ``Memory.contents``."""
        offsets, unknown = self._locate(pfns << np.uint64(PAGE_SHIFT), PAGE_SIZE)
        known = np.flatnonzero(unknown == Unknown.HASHED)
        return chain.from_iterable(self._read(offsets[known], unknown, known)), unknown

    def _read(
        self, offsets: Words, unknown: Bytes, row: npt.NDArray[np.int64]
    ) -> Iterator[list[memoryview]]:
        """The pages at ``offsets``, run by run, each in the place of the one before.

        ``row``: where in ``unknown`` to note what can't be read after all.
        """
        skew = offsets & np.uint64(PAGE_SIZE - 1)  # of the segment in the file
        number = (skew << np.uint64(64 - PAGE_SHIFT)) | (offsets >> np.uint64(PAGE_SHIFT))
        rows = self._rows
        for start, stop in runs(number, _RUN_PAGES, _BRIDGED_PAGES + 1):
            place = number[start:stop] - number[start]
            pages = int(place[-1]) + 1
            got = self._fill(pages, int(offsets[start]))
            if got < pages:
                unknown[row[start:stop][place >= got]] = Unknown.UNREADABLE
            yield rows[:pages] if pages == stop - start else [rows[n] for n in place.tolist()]

    def _fill(self, pages: int, offset: int) -> int:
        """Read ``pages`` from ``offset`` on into the buffer; how many could be read."""
        try:
            got = os.preadv(self._descriptor, [self._buffer[: pages * PAGE_SIZE]], offset)
        except OSError:
            return 0
        return got >> PAGE_SHIFT

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """See ``Memory.structs``; through the direct map, without a page-table walk each."""
        offsets, unknown = self._locate(addresses - np.uint64(self.direct_map), dtype.itemsize)
        found = self._members(offsets, dtype)
        ok = unknown == Unknown.HASHED
        if not ok.all():  # not in the direct map: vmalloc space or the kernel image
            found[~ok], ok[~ok] = super().structs(addresses[~ok], dtype)
        return found, ok

    def _members(self, offsets: Words, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The members of the structs at ``offsets`` in the file, without what lies between them."""
        layout = {name: (kind, at) for name, (kind, at, *_) in (dtype.fields or {}).items()}
        found = np.empty(len(offsets), [(name, kind) for name, (kind, _) in layout.items()])
        for first, part in _near_members(layout):
            raw = self._gather(offsets + np.uint64(first), part.itemsize).view(part)[:, 0]
            for name in part.names or ():
                found[name] = raw[name]
        return found

    def words(self, physical: Words) -> tuple[Words, Mask]:
        """See ``Memory.words``."""
        offsets, unknown = self._locate(physical, 8)
        ok = unknown == Unknown.HASHED
        return np.where(ok, self._gather(offsets, 8).view(np.uint64)[:, 0], np.uint64(0)), ok

    def unknown(self, pfns: Words) -> Bytes:
        """See ``Memory.unknown``."""
        return self._locate(pfns << np.uint64(PAGE_SHIFT), PAGE_SIZE)[1]

    def _forbid_gaps(self, loads: npt.NDArray[Any]) -> None:
        """Make drgn fail where it returns zeroes for memory that a filter left out of the dump."""

        def fail(address: int, count: int, offset: int, physical: bool) -> bytes:
            raise FaultError("memory is left out of the dump", address)

        for start, size in between(self._in_memory, self._in_file):
            self.prog.add_memory_segment(start, size, fail, physical=True)
        short = loads[loads["filesz"] < loads["memsz"]]
        for start, end in zip(
            (short["vaddr"] + short["filesz"]).tolist(),
            (short["vaddr"] + short["memsz"]).tolist(),
            strict=True,
        ):
            if start < end:
                self.prog.add_memory_segment(start, end - start, fail)

    def _locate(self, physical: Words, size: int) -> tuple[Words, Bytes]:
        """File offsets of ``size`` bytes at the addresses ``physical``, and ``Unknown`` codes."""
        end = physical + np.uint64(size)
        unknown = np.full(len(physical), Unknown.UNREADABLE, np.uint8)
        load, in_file = self._in_file.hold(physical, end)
        if not in_file.all():
            _, was_there = self._in_memory.hold(physical, end)
            unknown[was_there] = Unknown.EXCLUDED
        load = load[in_file]
        offsets = np.zeros(len(physical), np.uint64)
        place = self._offset[load] + (physical[in_file] - self._in_file.start[load])
        complete = place + np.uint64(size) <= self._file.size
        unknown[in_file] = np.where(complete, Unknown.HASHED, Unknown.TRUNCATED)
        offsets[in_file] = np.where(complete, place, 0)
        return offsets, unknown

    def _gather(self, offsets: Words, size: int) -> Bytes:
        found: Bytes = self._windows(size)[offsets.astype(np.int64)]
        return found

    def _windows(self, size: int) -> Bytes:
        """The file as overlapping rows: row n is the ``size`` bytes at offset n."""
        windows = max(self._file.size - size + 1, 0)
        return np.lib.stride_tricks.as_strided(self._file, (windows, size), (1, 1), writeable=False)


class Kdump(Memory):
    """A kdump file: what can't be read is known beforehand, what can is decompressed once.

    ``files``: one, or all of a split dump by PFN.
    """

    piece_pages = 16_384

    def __init__(self, prog: Program, files: Sequence[KdumpPages]) -> None:
        super().__init__(prog)
        self._files = files

    def unknown(self, pfns: Words) -> Bytes:
        """See ``Memory.unknown``."""
        found = self._files[0].unknown(pfns)
        for file in self._files[1:]:
            here = file.holds(pfns)
            found[here] = file.unknown(pfns[here])
        return found

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """See ``Memory.frames``; runs are no faster, each page is decompressed by itself."""
        data = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        contents, unknown = self.contents(pfns)
        known = np.flatnonzero(unknown == Unknown.HASHED)
        for row, content in zip(known.tolist(), contents, strict=True):
            if content:
                data[row] = np.frombuffer(content, np.uint8)
        return data, unknown

    def contents(self, pfns: Words) -> tuple[Iterable[Content], Bytes]:
        """See ``Memory.contents``: b"" for what turns out to be damaged."""
        unknown = self.unknown(pfns)
        return self._decompress(pfns, unknown), unknown

    def _decompress(self, pfns: Words, unknown: Bytes) -> Iterator[bytes]:
        read = self.prog.read
        known = np.flatnonzero(unknown == Unknown.HASHED)
        addresses = pfns[known] << np.uint64(PAGE_SHIFT)
        for row, address in zip(known.tolist(), addresses.tolist(), strict=True):
            try:
                yield read(address, PAGE_SIZE, True)
            except (FaultError, OSError):
                unknown[row] = Unknown.UNREADABLE
                yield b""


def _near_members(
    layout: dict[str, tuple[np.dtype[Any], int]],
) -> Iterator[tuple[int, np.dtype[Any]]]:
    """The members (dtype and offset) as parts, each with its offset, of what lies together."""
    names = sorted(layout, key=lambda name: layout[name][1])
    ends = [layout[name][1] + layout[name][0].itemsize for name in names]
    apart = [
        n for n, name in enumerate(names) if n and layout[name][1] > ends[n - 1] + _NEAR_MEMBER
    ]
    for begin, end in pairwise([0, *apart, len(names)]):
        first = layout[names[begin]][1]
        yield (
            first,
            np.dtype(
                {
                    "names": names[begin:end],
                    "formats": [layout[name][0] for name in names[begin:end]],
                    "offsets": [layout[name][1] - first for name in names[begin:end]],
                    "itemsize": ends[end - 1] - first,
                }
            ),
        )


def _map(descriptor: int) -> Bytes:
    return np.frombuffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ), np.uint8)


def _aligned(size: int) -> mmap.mmap:
    """``size`` bytes of our own from a page boundary on: copies to other places are slower."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

"""An ELF dump, or another file with memory as it is, as physical memory, mapped."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from estimator.arrays import Bytes, Ints, Mask, Words
from estimator.collect.limits import is_own_limit
from estimator.collect.page_room import PageRoom
from estimator.kernel.dump.file import DumpFile
from estimator.kernel.dump.page_cache import PageCache
from estimator.kernel.memory import (
    BRIDGED_PAGES,
    NEAR_MEMBER,
    RUN_PAGES,
    Digest,
    Memory,
)
from estimator.kernel.memory.intervals import between, disjoint, runs
from estimator.snapshot.flags import Unknown


class MappedElf(Memory):
    """An ELF dump, mapped: no copy through drgn, and gaps in the file are known as gaps.

    Memory without a dump's headers as well: its table of what is where looks the same.
    Contents of frames are read, not mapped: the kernel copies a page faster than it maps one.
    Structs and page tables are mapped: a file that gets shorter or has an I/O error meanwhile ends
    the process with SIGBUS there. A collection is no place for a dump that is still being copied.
    """

    piece_pages = 16_384  # their struct pages fit the cache
    knows_gaps = True

    def __init__(self, prog: Program, dump: DumpFile) -> None:
        super().__init__(prog)
        self._opened = dump.open()
        self._descriptor = self._opened.fileno()
        self._cache = PageCache(self._descriptor)
        self._file = _map(self._descriptor)
        self._room = PageRoom(RUN_PAGES, self.page_bytes)
        start, length, offset = (
            dump.loads[field].astype(np.uint64) for field in ("paddr", "filesz", "offset")
        )
        self._in_file, self._offset = disjoint(start, start + length, offset)
        self._in_memory, _ = disjoint(start, start + dump.loads["memsz"].astype(np.uint64), offset)
        self._forbid_gaps(dump.loads)

    def frames(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """See ``Memory.frames``; the order of ``pfns`` does not matter."""
        offsets, unknown = self._locate(pfns << np.uint64(self.page_shift), self.page_bytes)
        return self._gather(offsets, self.page_bytes), unknown

    def digests(self, pfns: Words, digest: Digest) -> tuple[Words, Bytes]:
        """See ``Memory.digests``."""
        offsets, unknown = self._locate(pfns << np.uint64(self.page_shift), self.page_bytes)
        known = np.flatnonzero(unknown == Unknown.HASHED)
        readable = np.ones(len(known), np.bool_)
        pages = chain.from_iterable(self._read(offsets[known], readable))
        values = np.fromiter(digest(pages), np.uint64)
        unknown[known[~readable]] = Unknown.UNREADABLE
        found = np.zeros(len(pfns), np.uint64)
        found[known[readable]] = values
        return found, unknown

    def batches(self, pfns: Words, unknown: Bytes, room: PageRoom) -> Iterator[Ints]:
        """See ``Memory.batches``."""
        offsets, unknown[:] = self._locate(pfns << np.uint64(self.page_shift), self.page_bytes)
        known = np.flatnonzero(unknown == Unknown.HASHED)
        batch, filled = [known[:0]], 0
        for start, stop in runs(self._numbers(offsets[known]), len(room)):
            if filled + stop - start > len(room):
                yield np.concatenate(batch)
                batch, filled = [], 0
            got = self._fill(room, filled, stop - start, int(offsets[known[start]]))
            batch.append(known[start : start + got])
            unknown[known[start + got : stop]] = Unknown.UNREADABLE
            filled += got
        if filled:
            yield np.concatenate(batch)

    def _numbers(self, offsets: Words) -> Words:
        """Of pages in the file; those of segments that begin within a page adjoin no others."""
        skew = offsets & np.uint64(self.page_bytes - 1)
        return (skew << np.uint64(64 - self.page_shift)) | (offsets >> np.uint64(self.page_shift))

    def _read(self, offsets: Words, readable: Mask) -> Iterator[list[memoryview]]:
        """The pages at ``offsets``, run by run, each in the place of the one before.

        What can't be read is left out, and False in ``readable``.
        """
        number, rows = self._numbers(offsets), self._room.whole
        for start, stop in runs(number, RUN_PAGES, BRIDGED_PAGES + 1):
            place = number[start:stop] - number[start]
            pages = int(place[-1]) + 1
            got = self._fill(self._room, 0, pages, int(offsets[start]))
            if got < pages:
                readable[start:stop] = place < got
                place = place[place < got]
            yield rows[:pages] if len(place) == pages else [rows[n] for n in place.tolist()]

    def close(self) -> None:
        """See ``Memory.close``."""
        self._cache.give_back_rest()
        self._opened.close()
        self.__dict__.pop("_file", None)  # unmapped with its last view

    def _fill(self, room: PageRoom, first: int, pages: int, offset: int) -> int:
        """Read ``pages`` from ``offset`` on to page ``first`` of ``room``; how many were read."""
        into = room.memory[first * self.page_bytes : (first + pages) * self.page_bytes]
        try:
            got = os.preadv(self._descriptor, [into], offset)
        except OSError as error:
            if is_own_limit(error):
                raise
            return 0
        self._cache.give_back(offset, offset + got)
        return got >> self.page_shift

    def structs(self, addresses: Words, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Mask]:
        """See ``Memory.structs``; through the direct map, without a page-table walk each."""
        offsets, unknown = self._locate(self.physical(addresses), dtype.itemsize)
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
        return self._locate(pfns << np.uint64(self.page_shift), self.page_bytes)[1]

    def holds(self, physical: Words) -> Mask:
        """Which of the addresses ``physical`` this file has."""
        return self._in_memory.hold(physical, physical + np.uint64(1))[1]

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


def _near_members(
    layout: dict[str, tuple[np.dtype[Any], int]],
) -> Iterator[tuple[int, np.dtype[Any]]]:
    """The members (dtype and offset) as parts, each with its offset, of what lies together."""
    names = sorted(layout, key=lambda name: layout[name][1])
    ends = [layout[name][1] + layout[name][0].itemsize for name in names]
    apart = [n for n, name in enumerate(names) if n and layout[name][1] > ends[n - 1] + NEAR_MEMBER]
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

"""What is in the frames, from /proc/PID/mem: copied and hashed a MiB at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns, Ints, Mask, Words, usable_cpus
from estimator.collect.by_pfn import ByPfn
from estimator.collect.further_hashes import PAGES_AT_ONCE, Further
from estimator.collect.hashing import digest_of
from estimator.collect.mappings import FRAME_FACTS, Mapped, first_mappings, same_frames
from estimator.collect.page_room import PageRoom
from estimator.collect.tables import Table
from estimator.collect.workers import Pieces, forked, packed_away, shared_columns
from estimator.packed import PIECE_ROWS, Packed, add, side_by_side
from estimator.procfs.nodes import nodes_of
from estimator.procfs.page_flags import frame_facts
from estimator.procfs.page_size import PAGE_BYTES, PAGE_SHIFT
from estimator.procfs.processes import PROC, Process
from estimator.snapshot.flags import Unknown

_WORKERS = 2  # a server has other work to do
_FACTS_AT_ONCE = 1 << 15
_FRAMES_AT_ONCE = 1 << 20  # in memory as they were read: 40 MB
_OF_CONTENTS = ("hash", "unknown")
_NO_ROW = 0xFFFF_FFFF


def workers_here() -> int:
    """How many processes read at once."""
    return min(_WORKERS, usable_cpus())


def look_at(
    pfns: Packed,
    mapped: Mapped,
    shared: Packed | None,
    vmas: Columns,
    processes: Sequence[Process],
    seed: int,
    further: Further | None,
    without_contents: bool,
    contents: str,
    progress: Callable[[str, int, int], None],
    pace: Callable[[int], None],
    workers: int,
    meanwhile: Callable[[], object],
) -> tuple[Table, Places]:
    """Columns of ``FRAME_FACTS`` of the frames ``pfns``, and ``zero_page``; and where they lie.

    And of ``further``, where more hashes are asked for. ``shared``: of ``PageMaps``.

    Read by ``workers`` processes at once, which ``pace`` holds for together. ``without_contents``:
    what is in the frames is left alone. ``contents``: of which memory, one of ``CONTENTS``.
    ``meanwhile`` is what this process does before it helps the others to read.
    """
    facts = _page_flags(pfns, shared, contents, workers)
    dtypes = {"hash": np.uint64, "unknown": np.uint8}
    if further is not None:
        dtypes |= further.wanted.columns(PAGE_BYTES)
    found = shared_columns(len(pfns), dtypes)
    places = Places(mapped, vmas, processes)
    if without_contents:
        found["unknown"][:] = Unknown.NOT_READ
    else:
        found["unknown"][:] = Unknown.CHANGED
        places.add(mapped, pfns, facts["kind"])
        total = len(places)
        pieces = Pieces(-(-total // PAGES_AT_ONCE))

        def read_contents(progress: Callable[[str, int, int], None]) -> None:
            done = 0
            for frames in _hash_frames(places, pieces, found, seed, further):
                done += frames * workers
                progress("bytes", min(done, total) * PAGE_BYTES, total * PAGE_BYTES)
                pace(frames * PAGE_BYTES)

        with forked(workers - 1, lambda: read_contents(lambda *_: None)):
            meanwhile()
            read_contents(progress)
    places.forget_rows()
    while found:
        name, values = found.popitem()
        facts[name] = packed_away(values)
    return facts, places


def _page_flags(pfns: Packed, shared: Packed | None, contents: str, workers: int) -> Table:
    """What /proc and sysfs say of the frames ``pfns``, without their contents; ``zero_page``."""
    dtypes = {name: dtype for name, dtype in FRAME_FACTS.items() if name not in _OF_CONTENTS}
    dtypes |= {"zero_page": np.bool_}
    facts = {name: Packed(dtype) for name, dtype in dtypes.items()}
    columns = shared_columns(min(len(pfns), _FRAMES_AT_ONCE), dtypes)
    alone = ByPfn(pfns, np.bool_, shared is not None)
    for piece in shared.drained() if shared is not None else ():
        alone.put(piece[alone.has(piece)], False)
    for begin in range(0, len(pfns), _FRAMES_AT_ONCE):
        block = pfns[begin : begin + _FRAMES_AT_ONCE]
        once = alone.of(block)
        pieces = Pieces(-(-len(block) // _FACTS_AT_ONCE))

        def read(block: Words = block, once: Mask = once, pieces: Pieces = pieces) -> None:
            for number in pieces:
                begin = number * _FACTS_AT_ONCE
                piece = slice(begin, min(begin + _FACTS_AT_ONCE, len(block)))
                for name, values in frame_facts(block[piece], once[piece], contents).items():
                    if name in columns:
                        columns[name][piece] = values

        with forked(workers - 1, read):
            columns["node"][: len(block)] = nodes_of(block)
            read()
        add(facts, {name: values[: len(block)] for name, values in columns.items()})
    return facts


def _rows_of_kind(pfns: Packed, kind: Packed) -> ByPfn:
    """The row in ``pfns`` of each of them that has a ``kind``; else _NO_ROW."""
    rows, begin = ByPfn(pfns, np.uint32, _NO_ROW), 0
    for piece in side_by_side({"pfn": pfns, "kind": kind}):
        number = np.arange(begin, begin + len(piece["pfn"]), dtype=np.uint32)
        rows.put(piece["pfn"], np.where(piece["kind"] != 0, number, np.uint32(_NO_ROW)))
        begin += len(number)
    return rows


def forget_what_moved(pfns: Packed, facts: Table, mapped: Mapped, looks: Sequence[Places]) -> None:
    """Make unknown what was read through a mapping that is not in ``mapped`` with its frame.

    Other mappings of the frame may hold still: after fork, one process may write to its own copy.
    ``looks``: where frames were read, the latest look at last.
    """
    if all(same.all() for places in looks for _, same in places.still_there(mapped)):
        return
    stayed = ByPfn(pfns, np.bool_, False)
    for places in looks:
        for pfn, same in places.still_there(mapped):
            there = stayed.has(pfn)
            stayed.put(pfn[there], same[there])
    columns = {name: facts[name] for name in ("hash", "unknown")}
    for number, piece in enumerate(side_by_side({"pfn": pfns, **columns})):
        moved = (piece["unknown"] == Unknown.HASHED) & ~stayed.of(piece["pfn"])
        if moved.any():
            columns["hash"].change(number, np.where(moved, np.uint64(0), piece["hash"]))
            unknown = np.where(moved, np.uint8(Unknown.CHANGED), piece["unknown"])
            columns["unknown"].change(number, unknown)


class _Block:
    """Some of ``Places`` as arrays. ``rows``: u32, of the frames. ``mm``: i64, mm_id."""

    def __init__(
        self, rows: npt.NDArray[np.uint32], mm: Ints, page: Words, pids: list[int]
    ) -> None:
        self.rows, self.mm = rows, mm
        self._page, self._pids = page, pids
        self._breaks = np.flatnonzero((np.diff(page) != 1) | (np.diff(mm) != 0)) + 1

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Frames [start, stop) in runs of one process: first and last, pid, first page."""
        first, last = np.searchsorted(self._breaks, (start, stop), side="right")
        bounds = [start, *self._breaks[first:last].tolist()]
        if bounds[-1] != stop:
            bounds.append(stop)
        for begin, end in pairwise(bounds):
            yield begin, end, self._pids[self.mm[begin]], int(self._page[begin])


class Places:
    """Where frames are read, in the order of addresses: contents are copied in long runs.

    ``key``: u64, the ``Mapped.key`` of the mapping through which it is. ``pfn``: u64.
    """

    def __init__(self, mapped: Mapped, vmas: Columns, processes: Sequence[Process]) -> None:
        self._first_page = mapped.first_page
        self._start: Words = vmas["start"] >> PAGE_SHIFT
        self._mm = vmas["mm_id"].astype(np.int64)
        self._pids = [process.pid for process in processes]
        self._row = Packed(np.uint32)
        self.key, self.pfn = Packed(np.uint64), Packed(np.uint64)

    def __len__(self) -> int:
        return len(self.key)

    def add(self, mapped: Mapped, pfns: Packed, kind: Packed) -> None:
        """Put the frames ``pfns`` that have a ``kind`` at the first place where they are mapped."""
        row_of = _rows_of_kind(pfns, kind)
        for rows in first_mappings(pfns, mapped):
            row = row_of.of(rows.pfn)
            there = row != _NO_ROW
            self._row.append(row[there])
            self.key.append(mapped.key(rows)[there])
            self.pfn.append(rows.pfn[there])

    def still_there(self, mapped: Mapped) -> Iterator[tuple[Words, Mask]]:
        """The frames a piece at a time, and which of them ``mapped`` has at their places."""
        now = ((mapped.key(rows), rows.pfn) for rows in mapped.pieces())
        read = zip(self.key.pieces(), self.pfn.pieces(), strict=True)
        return zip(self.pfn.pieces(), same_frames(now, read), strict=True)

    def forget_rows(self) -> None:
        """Keep ``key`` and ``pfn`` alone: all has been read."""
        self._row = Packed(np.uint32)

    def block(self, number: int) -> _Block:
        """``PIECE_ROWS`` of them, which are also the numbers of frames; the last one has fewer."""
        rows = slice(number * PIECE_ROWS, (number + 1) * PIECE_ROWS)
        key: Words = self.key[rows]
        vma = np.searchsorted(self._first_page, key, side="right") - 1
        page = self._start[vma] + (key - self._first_page[vma])
        return _Block(self._row[rows], self._mm[vma], page, self._pids)


def _hash_frames(
    places: Places,
    pieces: Iterable[int],
    found: Columns,
    seed: int,
    further: Further | None,
) -> Iterator[int]:
    """Fill ``hash`` and ``unknown`` of the frames of some pieces of ``places``.

    And the columns of ``further``. Yields how many frames a piece had when it is done.
    """
    room = PageRoom(PAGES_AT_ONCE, PAGE_BYTES) if further is None else further.room
    digest = digest_of(seed)
    number, block = -1, places.block(0)
    with _Reader(room.memory) as reader:
        for piece in pieces:
            if number != piece * PAGES_AT_ONCE // PIECE_ROWS:
                number = piece * PAGES_AT_ONCE // PIECE_ROWS
                block = places.block(number)
            start = piece * PAGES_AT_ONCE % PIECE_ROWS
            stop = min(start + PAGES_AT_ONCE, len(block.rows))
            unknown = np.concatenate(
                [
                    reader.copy(begin - start, end - begin, pid, page)
                    for begin, end, pid, page in block.runs(start, stop)
                ]
            )
            if further is None:
                digests = digest(room.whole[: stop - start])
                hashes: Columns = {"hash": np.fromiter(digests, np.uint64, stop - start)}
            else:
                hashes = further.hashes(block.mm[start:stop])
            rows = block.rows[start:stop]
            for name, values in hashes.items():
                found[name][rows] = np.where(unknown == Unknown.HASHED, values, 0)
            found["unknown"][rows] = unknown
            yield stop - start


class _Reader:
    """Copies pages of processes to ``memory``, a process at a time."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._pid, self._file = -1, -1

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def copy(self, place: int, pages: int, pid: int, page: int) -> npt.NDArray[np.uint8]:
        """Copy pages from ``page`` of a process on to page ``place`` of it; ``Unknown`` codes.

        Not by process_vm_readv(2), which is faster: it pins pages, and pinning one that fork shares
        gives the process a copy of its own (gup_must_unshare()): looking would cost memory.
        """
        unknown = np.full(pages, Unknown.UNREADABLE, np.uint8)
        if not self._open(pid):
            unknown[:] = Unknown.CHANGED  # has exited
            return unknown
        done = 0
        while done < pages:
            into = self._memory[(place + done) * PAGE_BYTES : (place + pages) * PAGE_BYTES]
            try:
                copied = os.preadv(self._file, [into], (page + done) * PAGE_BYTES) // PAGE_BYTES
            except OSError:
                copied = 0
            unknown[done : done + copied] = Unknown.HASHED
            done += copied + 1  # the page that stopped it is left out
        return unknown

    def _open(self, pid: int) -> bool:
        if pid != self._pid:
            self._close()
            try:
                self._file = os.open(PROC / str(pid) / "mem", os.O_RDONLY)
            except OSError:
                return False
            self._pid = pid
        return True

    def _close(self) -> None:
        if self._pid != -1:
            os.close(self._file)
            self._pid = -1

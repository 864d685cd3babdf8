"""What is in the frames, from /proc/PID/mem: copied and hashed a MiB at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns, Words, find
from estimator.collect.further_hashes import PAGES_AT_ONCE, Further
from estimator.collect.hashing import digest_of
from estimator.collect.mappings import FRAME_FACTS, Mapped, first_mappings
from estimator.collect.page_room import PageRoom
from estimator.collect.workers import Pieces, forked, shared_columns
from estimator.procfs.nodes import nodes_of
from estimator.procfs.page_flags import frame_facts
from estimator.procfs.page_size import PAGE_BYTES, PAGE_SHIFT
from estimator.procfs.processes import PROC, Process
from estimator.snapshot.flags import Unknown

_WORKERS = 2  # a server has other work to do
_FACTS_AT_ONCE = 1 << 15
_NOWHERE = np.iinfo(np.uint64).max


def workers_here() -> int:
    """How many processes read at once."""
    return min(_WORKERS, len(os.sched_getaffinity(0)))


def look_at(
    pfns: Words,
    mapped: Mapped,
    vmas: Columns,
    processes: Sequence[Process],
    seed: int,
    further: Further | None,
    without_contents: bool,
    contents: str,
    progress: Callable[[str, int, int], None],
    pace: Callable[[int], None],
) -> Columns:
    """Columns of ``FRAME_FACTS`` of the frames ``pfns``, ``zero_page`` and ``read_at``.

    And of ``further``, where more hashes are asked for.

    Read by some processes at once; each keeps to its part of the pace. ``without_contents``: what
    is in the frames is left alone. ``contents``: of which memory, one of ``CONTENTS``.
    """
    columns = FRAME_FACTS | {"zero_page": np.bool_, "read_at": np.uint64}
    if further is not None:
        columns |= further.wanted.columns(PAGE_BYTES)
    facts = shared_columns(len(pfns), columns)

    workers = workers_here()
    fact_pieces = Pieces(-(-len(pfns) // _FACTS_AT_ONCE))

    def read_facts() -> None:
        for number in fact_pieces:
            piece = slice(number * _FACTS_AT_ONCE, (number + 1) * _FACTS_AT_ONCE)
            for name, values in frame_facts(pfns[piece], contents).items():
                facts[name][piece] = values

    facts["node"][:] = nodes_of(pfns)
    facts["read_at"][:] = _NOWHERE
    if without_contents:
        read_facts()
        facts["unknown"][:] = Unknown.NOT_READ
        return facts
    with forked(workers - 1, read_facts):
        mappings = first_mappings(pfns, mapped)
        read_facts()
    mappings[facts["kind"] == 0] = -1
    places = _Places(mappings, mapped, vmas, processes)
    total = len(places.rows)
    pieces = Pieces(-(-total // PAGES_AT_ONCE))

    def read_contents(progress: Callable[[str, int, int], None]) -> None:
        done = 0
        for frames in _hash_frames(places, pieces, facts, seed, further):
            done += frames * workers
            progress("bytes", min(done, total) * PAGE_BYTES, total * PAGE_BYTES)
            pace(frames * workers * PAGE_BYTES)

    with forked(workers - 1, lambda: read_contents(lambda *_: None)):
        read_contents(progress)
    return facts


def forget_what_moved(pfns: Words, facts: Columns, mapped: Mapped) -> None:
    """Make unknown what was read through a mapping that is not in ``mapped`` with its frame.

    Other mappings of the frame may hold still: after fork, one process may write to its own copy.
    """
    read_at = facts.pop("read_at")
    row, stayed = find(mapped.key, read_at)
    stayed[stayed] = mapped.pfn[row] == pfns[stayed]
    moved = (facts["unknown"] == Unknown.HASHED) & ~stayed
    facts["hash"][moved] = 0
    facts["unknown"][moved] = Unknown.CHANGED


class _Places:
    """Where frames are read: ``mappings[n]`` is the row of ``mapped`` for the frame number n.

    They stand in the order of addresses, so that contents are copied from a process in long runs.
    Frames where it is -1 are left out.
    """

    def __init__(
        self,
        mappings: npt.NDArray[np.int64],
        mapped: Mapped,
        vmas: Columns,
        processes: Sequence[Process],
    ) -> None:
        frame = np.full(len(mapped.pfn) + 1, -1)
        frame[mappings] = np.arange(len(mappings))
        place = np.flatnonzero(frame[:-1] >= 0)
        vma = mapped.vma_id[place]
        self.rows = frame[place]
        self.key = mapped.key[place]
        self._page = (vmas["start"] >> PAGE_SHIFT)[vma] + mapped.page_index[place]
        self.mm = vmas["mm_id"][vma].astype(np.int64)
        self._pids = [process.pid for process in processes]
        self._breaks = np.flatnonzero((np.diff(self._page) != 1) | (np.diff(self.mm) != 0)) + 1

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Frames [start, stop) in runs of one process: first and last, pid, first page."""
        first, last = np.searchsorted(self._breaks, (start, stop), side="right")
        bounds = [start, *self._breaks[first:last].tolist()]
        if bounds[-1] != stop:
            bounds.append(stop)
        for begin, end in pairwise(bounds):
            yield begin, end, self._pids[self.mm[begin]], int(self._page[begin])


def _hash_frames(
    places: _Places,
    pieces: Iterable[int],
    facts: Columns,
    seed: int,
    further: Further | None,
) -> Iterator[int]:
    """Fill ``hash``, ``unknown`` and ``read_at`` of the frames of some pieces of ``places``.

    And the columns of ``further``. ``read_at``: the ``Mapped.key`` of the mapping through which the
    frame was read. Yields how many frames a piece had when it is done.
    """
    room = PageRoom(PAGES_AT_ONCE, PAGE_BYTES) if further is None else further.room
    digest = digest_of(seed)
    with _Reader(room.memory) as reader:
        for piece in pieces:
            start, stop = piece * PAGES_AT_ONCE, min((piece + 1) * PAGES_AT_ONCE, len(places.rows))
            unknown = np.concatenate(
                [
                    reader.copy(begin - start, end - begin, pid, page)
                    for begin, end, pid, page in places.runs(start, stop)
                ]
            )
            if further is None:
                digests = digest(room.whole[: stop - start])
                hashes: Columns = {"hash": np.fromiter(digests, np.uint64, stop - start)}
            else:
                hashes = further.hashes(places.mm[start:stop])
            rows = places.rows[start:stop]
            for name, values in hashes.items():
                facts[name][rows] = np.where(unknown == Unknown.HASHED, values, 0)
            facts["unknown"][rows] = unknown
            facts["read_at"][rows] = places.key[start:stop]
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

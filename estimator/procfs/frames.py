"""Frames by PFN, from /proc/kpageflags and /proc/kpagecount; their contents from /proc/PID/mem."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from xxhash import xxh3_64_intdigest

from estimator.facts import FrameFlag, Unknown
from estimator.hashing import PAGE_SIZE
from estimator.mapped import Columns, Mapped, Words, distinct
from estimator.procfs.processes import PROC, Process

_NODES = Path("/sys/devices/system/node")
_MEMORY = Path("/sys/devices/system/memory")
_BLOCK = 512  # an anonymous folio lies within 2 MiB
_RUN_PAGES = 256  # what is copied from a process at a time: 1 MiB stays in the cache
_BLOCKS_AT_ONCE = 256  # 1 MiB of page flags
_GAP = np.uint64(16)  # read over gaps up to this long
_PIECE = 1 << 16

# include/uapi/linux/kernel-page-flags.h and kernel-page-flags.h
_FLAGS = {
    0: FrameFlag.LOCKED,
    5: FrameFlag.LRU,
    8: FrameFlag.WRITEBACK,
    13: FrameFlag.SWAPCACHE,
    14: FrameFlag.SWAPBACKED,
    19: FrameFlag.HWPOISON,
    21: FrameFlag.KSM,
    33: FrameFlag.MLOCKED,
}
_PFN = np.uint64((1 << 55) - 1)
_KPF_KSM = 21
_ANON, _HEAD, _TAIL, _ZERO_PAGE = (np.uint64(1 << bit) for bit in (12, 15, 16, 24))


def frame_facts(pfns: Words) -> tuple[Columns, npt.NDArray[np.bool_]]:
    """Columns of ``FRAME_FACTS`` of the frames ``pfns`` (ascending), and which are zero pages.

    Not to be had here, and -1: ``refcount``, and the ``folio_mapcount`` of large folios.
    """
    flags, head, order = _flags(pfns)
    kpf = np.zeros(len(pfns), np.uint32)
    for bit, flag in _FLAGS.items():
        kpf[(flags & np.uint64(1 << bit)) != 0] |= np.uint32(flag)
    kpf[order > 0] |= np.uint32(FrameFlag.LARGE)
    mapcount = _words("kpagecount", pfns).astype(np.int32)
    facts: Columns = {
        "ok": np.ones(len(pfns), np.bool_),
        "anonymous": (flags & _ANON) != 0,
        "hash": np.zeros(len(pfns), np.uint64),
        "unknown": np.full(len(pfns), Unknown.CHANGED, np.uint8),
        "flags": kpf,
        "order": order,
        "head_pfn": head,
        "node": _nodes(pfns),
        "mapcount": mapcount,
        "refcount": np.full(len(pfns), -1, np.int32),
        "folio_mapcount": np.where(order > 0, np.int32(-1), mapcount).astype(np.int32),
    }
    return facts, (flags & _ZERO_PAGE) != 0


def _flags(pfns: Words) -> tuple[Words, Words, npt.NDArray[np.uint8]]:
    """kpageflags of each frame, the head frame of its folio, and the order of that."""
    flags, head = _words("kpageflags", pfns), pfns.copy()
    order = np.zeros(len(pfns), np.uint8)
    large = np.flatnonzero(flags & (_HEAD | _TAIL))
    block = pfns[large] // np.uint64(_BLOCK)
    place = (pfns[large] % np.uint64(_BLOCK)).astype(np.int64)
    blocks = distinct(block)
    for begin in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = blocks[begin : begin + _BLOCKS_AT_ONCE]
        within = np.arange(_BLOCK, dtype=np.uint64)
        neighbours: Words = np.add.outer(part * np.uint64(_BLOCK), within)
        heads, pages = _folios(_words("kpageflags", neighbours.reshape(-1)).reshape(-1, _BLOCK))
        start, stop = np.searchsorted(block, [part[0], part[-1] + np.uint64(1)])
        at = (np.searchsorted(part, block[start:stop]), place[start:stop])
        rows = large[start:stop]
        head[rows] = block[start:stop] * np.uint64(_BLOCK) + heads[at].astype(np.uint64)
        order[rows] = np.log2(pages[at]).astype(np.uint8)
    return flags, head, order


def ksm_flag_holds() -> bool:
    """Whether KPF_KSM means what it says: in 6.12 every anonymous page has it.

    There stable_page_flags() tests one of the two bits of PAGE_MAPPING_KSM. A page of our own shows
    it.
    """
    page = np.frombuffer(mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    page[0] = 1
    with (PROC / "self" / "pagemap").open("rb", buffering=0) as file:
        entry = os.pread(file.fileno(), 8, page.ctypes.data // PAGE_SIZE * 8)
    pfn = np.frombuffer(entry, np.uint64) & _PFN
    return not int(_words("kpageflags", pfn)[0]) >> _KPF_KSM & 1


def mark_ksm(facts: Columns, pfns: Words, mapped: Mapped, smaps: dict[str, Words]) -> bool:
    """Set the flag KSM by smaps instead of KPF_KSM; False if smaps leaves it open somewhere.

    All anonymous pages of a VMA are KSM's, or none, or smaps says only how many.
    """
    merged, anonymous = smaps["KSM"], smaps["Anonymous"]
    frames = distinct(mapped.pfn[((merged > 0) & (merged == anonymous))[mapped.vma_id]])
    ksm = np.isin(pfns, frames, assume_unique=True) & facts["anonymous"]
    facts["flags"] &= ~np.uint32(FrameFlag.KSM)
    facts["flags"][ksm] |= np.uint32(FrameFlag.KSM)
    return bool(((merged == 0) | (merged == anonymous)).all())


def _folios(flags: Words) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """In each block (row): the place of the head of each page, and the pages of its folio."""
    place = np.arange(_BLOCK)
    head = np.maximum.accumulate(np.where((flags & _TAIL) != 0, 0, place), axis=1)
    own = head + np.arange(len(flags))[:, None] * _BLOCK
    return head, np.bincount(own.ravel(), minlength=flags.size)[own]


def _words(name: str, pfns: Words) -> Words:
    """The words of the frames ``pfns`` (ascending) in a file of /proc that has one per frame."""
    found = np.zeros(len(pfns), np.uint64)
    breaks = np.flatnonzero(np.diff(pfns) > _GAP) + 1
    with (PROC / name).open("rb", buffering=0) as file:
        for start, end in pairwise([0, *breaks.tolist(), len(pfns)]):
            for first, stop in _pieces(pfns, start, end):
                base = int(pfns[first])
                size = int(pfns[stop - 1]) - base + 1
                raw = np.frombuffer(os.pread(file.fileno(), 8 * size, 8 * base), np.uint64)
                words = np.zeros(size, np.uint64)
                words[: len(raw)] = raw
                found[first:stop] = words[pfns[first:stop] - np.uint64(base)]
    return found


def _pieces(pfns: Words, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Rows [start, end) in pieces that span at most _PIECE frames."""
    while start < end:
        stop = int(np.searchsorted(pfns[start:end], pfns[start] + np.uint64(_PIECE))) + start
        yield start, stop
        start = stop


def _runs(numbers: Words, longest: int) -> Iterator[tuple[int, int]]:
    """Rows [start, stop) of consecutive numbers, at most ``longest``."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for start, stop in pairwise([0, *breaks.tolist(), len(numbers)]):
        for begin in range(start, stop, longest):
            yield begin, min(begin + longest, stop)


def _nodes(pfns: Words) -> npt.NDArray[np.uint16]:
    """NUMA nodes, by the memory blocks that sysfs assigns to each; 0 on a machine without."""
    nodes = np.zeros(len(pfns), np.uint16)
    directories = sorted(_NODES.glob("node[0-9]*"))
    if len(directories) < 2:
        return nodes
    with contextlib.suppress(OSError):
        block_pages = int((_MEMORY / "block_size_bytes").read_text(), 16) // PAGE_SIZE
        block_of = pfns // np.uint64(block_pages)
        for directory in directories:
            blocks = [re.search(r"\d+$", str(path)) for path in directory.glob("memory[0-9]*")]
            numbers = np.array([int(found[0]) for found in blocks if found], np.uint64)
            nodes[np.isin(block_of, numbers)] = int(directory.name.removeprefix("node"))
    return nodes


def hash_frames(
    pfns: Words,
    facts: Columns,
    mapped: Mapped,
    vmas: pd.DataFrame,
    processes: Sequence[Process],
    seed: int,
    done: Callable[[int], None],
) -> None:
    """Fill ``hash`` and ``unknown`` of the anonymous frames, each read where it is mapped first.

    The order is that of addresses: contents are copied from a process in long runs. ``done`` is
    told the number of frames hashed since.
    """
    wanted = np.flatnonzero(facts["anonymous"])
    place, found = _first_mapping(pfns[wanted], mapped)
    wanted, place = wanted[found], place[found]
    by_place = np.argsort(place)
    wanted, place = wanted[by_place], place[by_place]
    vma = mapped.vma_id[place]
    page = (vmas["start"].to_numpy() >> np.uint64(12))[vma] + mapped.page_index[place]
    mm = vmas["mm_id"].to_numpy()[vma]
    buffer = np.frombuffer(mmap.mmap(-1, _RUN_PAGES * PAGE_SIZE), np.uint8)
    rows = buffer.reshape(_RUN_PAGES, PAGE_SIZE)
    bounds = [0, *(np.flatnonzero(np.diff(mm)) + 1).tolist(), len(mm)]
    for begin, end in pairwise(bounds):
        if begin == end:
            continue
        try:
            file = os.open(PROC / str(processes[mm[begin]].pid) / "mem", os.O_RDONLY)
        except OSError:
            continue  # has exited: these stay as they are, changed
        try:
            for start, stop in _runs(page[begin:end], _RUN_PAGES):
                frames = wanted[begin + start : begin + stop]
                read = _read(file, int(page[begin + start]) * PAGE_SIZE, buffer, stop - start)
                digests = map(xxh3_64_intdigest, rows[:read], repeat(seed))
                facts["hash"][frames[:read]] = np.fromiter(digests, np.uint64, read)
                facts["unknown"][frames[:read]] = Unknown.HASHED
                facts["unknown"][frames[read:]] = Unknown.UNREADABLE
                done(stop - start)
        finally:
            os.close(file)


def _read(file: int, address: int, buffer: npt.NDArray[np.uint8], pages: int) -> int:
    """Copy ``pages`` pages; how many whole ones could be."""
    try:
        return os.preadv(file, [buffer[: pages * PAGE_SIZE].data], address) // PAGE_SIZE
    except OSError:
        return 0


def _first_mapping(
    pfns: Words, mapped: Mapped
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The first row of ``mapped`` that maps each of ``pfns``; and whether there is one."""
    if not len(mapped.pfn):
        return np.zeros(len(pfns), np.int64), np.zeros(len(pfns), np.bool_)
    order = np.argsort(mapped.pfn, kind="stable")
    place = np.minimum(np.searchsorted(mapped.pfn, pfns, sorter=order), len(order) - 1)
    return order[place], mapped.pfn[order[place]] == pfns

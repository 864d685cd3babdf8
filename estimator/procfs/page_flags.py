"""Frames by PFN, from /proc/kpageflags and /proc/kpagecount."""

from __future__ import annotations

import os
import platform

import numpy as np
import numpy.typing as npt

from estimator.arrays import Bytes, Columns, Mask, Words
from estimator.collect.mappings import distinct
from estimator.procfs.page_size import HUGE_PAGES
from estimator.procfs.pagemap import own_page
from estimator.procfs.processes import PROC
from estimator.snapshot.flags import FrameFlag, FrameKind, Unknown
from estimator.snapshot.format import CONTENTS

_BLOCK = HUGE_PAGES  # an anonymous folio lies within one
_BLOCKS_AT_ONCE = 256  # 1 MiB of page flags
_GAP = np.uint64(32)  # read over gaps up to this long

# include/uapi/linux/kernel-page-flags.h and kernel-page-flags.h
_FLAGS = {
    0: FrameFlag.LOCKED,
    5: FrameFlag.LRU,
    8: FrameFlag.WRITEBACK,
    13: FrameFlag.SWAPCACHE,
    14: FrameFlag.SWAPBACKED,
    19: FrameFlag.HWPOISON,
    33: FrameFlag.MLOCKED,
}
_ARCH_2 = 41  # KPF_ARCH_2
if platform.machine() == "aarch64":
    _FLAGS[_ARCH_2] = FrameFlag.MTE
_ANON, _HEAD, _TAIL, KPF_KSM, _ZERO_PAGE = (np.uint64(1 << bit) for bit in (12, 15, 16, 21, 24))
_MMAP, _SWAPBACKED, _HUGE, _LRU = (np.uint64(1 << bit) for bit in (11, 14, 17, 5))


def frame_facts(pfns: Words, alone: Mask, contents: str = CONTENTS[0]) -> Columns:
    """Columns of ``FRAME_FACTS`` but ``node``, of the frames ``pfns``, and ``zero_page``, bool.

    ``alone``: bool (n,), which ones are taken to be mapped once, but for those of large folios.
    ``kind``: 0 where ``contents`` does not ask for it.
    Not to be had here, and -1: ``refcount``, and the ``folio_mapcount`` of large folios.
    """
    flags, head, order = _flags(pfns)
    kpf = np.zeros(len(pfns), np.uint32)
    for bit, flag in _FLAGS.items():
        kpf[(flags & np.uint64(1 << bit)) != 0] |= np.uint32(flag)
    kpf[order > 0] |= np.uint32(FrameFlag.LARGE)
    mapcount = np.ones(len(pfns), np.int32)
    asked = ~alone | (order > 0)
    mapcount[asked] = frame_words("kpagecount", pfns[asked])
    return {
        "ok": np.ones(len(pfns), np.bool_),
        "kind": _kind(flags, contents),
        "hash": np.zeros(len(pfns), np.uint64),
        "unknown": np.full(len(pfns), Unknown.CHANGED, np.uint8),
        "flags": kpf,
        "order": order,
        "head_pfn": head,
        "mapcount": mapcount,
        "refcount": np.full(len(pfns), -1, np.int32),
        "folio_mapcount": np.where(order > 0, np.int32(-1), mapcount).astype(np.int32),
        "zero_page": (flags & _ZERO_PAGE) != 0,
    }


def zero_page_tagged() -> bool | None:
    """Whether the kernel's zero page is flagged as memory with tags (MTE); None: not known."""
    with own_page(written=False) as pfn:
        flags = int(frame_words("kpageflags", np.array([pfn], np.uint64))[0])
    if not flags & int(_ZERO_PAGE):
        return None
    return _ARCH_2 in _FLAGS and bool(flags & 1 << _ARCH_2)


def _kind(flags: Words, contents: str) -> Bytes:
    """``FrameKind``. Page cache is on an LRU list or mapped; of tmpfs it is swap-backed."""
    kind = ((flags & _ANON) != 0).view(np.uint8) * np.uint8(FrameKind.ANONYMOUS)
    kind[(flags & (_ANON | KPF_KSM)) == _ANON | KPF_KSM] = FrameKind.KSM
    if contents == CONTENTS[0]:
        return kind
    cache = ((flags & (_ANON | _ZERO_PAGE)) == 0) & ((flags & (_LRU | _MMAP)) != 0)
    kind[cache & ((flags & _SWAPBACKED) != 0)] = FrameKind.SHMEM
    if contents == CONTENTS[-1]:
        kind[cache & ((flags & _SWAPBACKED) == 0)] = FrameKind.FILE
    kind[(flags & _HUGE) != 0] = FrameKind.HUGETLB
    return kind


def _flags(pfns: Words) -> tuple[Words, Words, npt.NDArray[np.uint8]]:
    """kpageflags of each frame, the head frame of its folio, and the order of that."""
    flags, head = frame_words("kpageflags", pfns), pfns.copy()
    order = np.zeros(len(pfns), np.uint8)
    large = np.flatnonzero(flags & (_HEAD | _TAIL))
    block = pfns[large] // np.uint64(_BLOCK)
    place = (pfns[large] % np.uint64(_BLOCK)).astype(np.int64)
    blocks = distinct(block)
    for begin in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = blocks[begin : begin + _BLOCKS_AT_ONCE]
        words = _blocks(part, pfns, flags)
        heads, pages = _folios(words)
        start, stop = np.searchsorted(block, [part[0], part[-1] + np.uint64(1)])
        at = (np.searchsorted(part, block[start:stop]), place[start:stop])
        rows = large[start:stop]
        head[rows] = block[start:stop] * np.uint64(_BLOCK) + heads[at].astype(np.uint64)
        order[rows] = np.log2(pages[at]).astype(np.uint8)
        flags[rows] |= words[at[0], heads[at]]  # before 6.10 a tail lacks what the head has
    return flags, head, order


def _blocks(blocks: Words, pfns: Words, flags: Words) -> Words:
    """kpageflags of all frames of each block; read where ``pfns`` (ascending) has not all of it."""
    first = blocks * np.uint64(_BLOCK)
    within = np.arange(_BLOCK, dtype=np.uint64)
    words = np.empty((len(blocks), _BLOCK), np.uint64)
    start, stop = np.searchsorted(pfns, first), np.searchsorted(pfns, first + np.uint64(_BLOCK))
    whole = stop - start == _BLOCK
    words[whole] = flags[np.add.outer(start[whole], np.arange(_BLOCK))]
    wanted: Words = np.add.outer(first[~whole], within)
    words[~whole] = frame_words("kpageflags", wanted.reshape(-1)).reshape(-1, _BLOCK)
    return words


def _folios(flags: Words) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """In each block (row): the place of the head of each page, and the pages of its folio."""
    place = np.arange(_BLOCK)
    head = np.maximum.accumulate(np.where((flags & _TAIL) != 0, 0, place), axis=1)
    own = head + np.arange(len(flags))[:, None] * _BLOCK
    return head, np.bincount(own.ravel(), minlength=flags.size)[own]


def frame_words(name: str, pfns: Words) -> Words:
    """The words of the frames ``pfns`` (ascending) in a file of /proc that has one per frame."""
    if not len(pfns):
        return np.zeros(0, np.uint64)
    breaks = np.flatnonzero(np.diff(pfns) > _GAP) + 1
    first, last = pfns[np.append(0, breaks)], pfns[np.append(breaks - 1, len(pfns) - 1)]
    sizes = (last - first + np.uint64(1)).astype(np.int64)
    offsets = np.cumsum(sizes) - sizes  # of each run in ``words``
    words = np.zeros(int(sizes.sum()), np.uint64)
    into, ends = words.view(np.uint8).data, offsets + sizes
    with (PROC / name).open("rb", buffering=0) as file:
        descriptor, read = file.fileno(), os.preadv
        places = (8 * offsets).tolist(), (8 * ends).tolist(), (8 * first).tolist()
        for begin, end, place in zip(*places, strict=True):
            read(descriptor, [into[begin:end]], place)
    run = np.repeat(offsets - first.astype(np.int64), np.diff([0, *breaks, len(pfns)]))
    return words[pfns.astype(np.int64) + run]

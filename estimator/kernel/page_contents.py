"""Frames: struct page facts and the hash of the content, together."""

from __future__ import annotations

import numpy as np

from estimator.arrays import Bytes, Columns, Ints, Mask, Words
from estimator.collect.further_hashes import Further
from estimator.collect.hashing import digest_of
from estimator.collect.mappings import FRAME_FACTS
from estimator.kernel.memory import Memory
from estimator.kernel.page_array import PageArray, PageInfo
from estimator.snapshot.flags import FrameFlag, FrameKind, Unknown

_LOOKS = 3


def read_frames(
    pages: PageArray,
    memory: Memory,
    pfns: Words,
    seed: int,
    moving: bool,
    kinds: Bytes | None = None,
    further: tuple[Further, Ints] | None = None,
) -> Columns:
    """Columns of ``FRAME_FACTS`` of the frames ``pfns``; the hash only of those of a kind.

    ``kinds``: u8, the ``FrameKind`` of those that are not anonymous, by who maps them; 0: of none.
    ``further``: what makes more hashes, and the mm that maps each frame first, -1 for none.

    With ``moving`` struct pages are read again after the content: where they no longer say the
    same, all is read again, at last given up as ``Unknown.CHANGED``.
    """
    info = _look(pages, pfns, kinds)
    columns = _described(info)
    if further is not None:
        for name, dtype in further[0].wanted.columns(memory.page_bytes).items():
            columns[name] = np.zeros(len(pfns), dtype)
    rows: Ints = np.flatnonzero(info.ok & (info.kind != 0))
    _hash(columns, memory, pfns, rows, seed, further)
    if not moving:
        return columns
    for _ in range(_LOOKS):
        after = _look(pages, pfns, kinds)
        moved = _moved(info, after)
        if not moved.any():
            break
        for name in columns.keys() & vars(after).keys():
            columns[name] = vars(after)[name]
        info, rows = after, np.flatnonzero(moved & after.ok & (after.kind != 0))
        columns["unknown"][moved] = 0
        _hash(columns, memory, pfns, rows, seed, further)
    else:
        columns["unknown"][_moved(info, _look(pages, pfns, kinds))] = Unknown.CHANGED
    poisoned = (columns["flags"] & np.uint32(FrameFlag.HWPOISON)) != 0
    columns["unknown"][poisoned] = Unknown.UNREADABLE  # /proc/kcore has zeroes for them
    columns["hash"][columns["unknown"] != Unknown.HASHED] = 0
    return columns


def leave_unread(pages: PageArray, memory: Memory, pfns: Words) -> Columns:
    """Columns of ``FRAME_FACTS`` of the frames ``pfns``, with no look at what is in them.

    ``unknown``: what is known beforehand to keep the frame from being read, else NOT_READ.
    """
    columns = _described(pages.read(pfns))
    columns["unknown"][:] = memory.unknown(pfns)
    columns["unknown"][columns["unknown"] == Unknown.HASHED] = Unknown.NOT_READ
    return columns


def _look(pages: PageArray, pfns: Words, kinds: Bytes | None) -> PageInfo:
    """``pages.read`` with the ``kinds`` of page cache.

    Of a hugetlb page of x86-64 only the struct page of each 2 MiB is looked at: those behind may be
    the same memory as the first ones (page_fixed_fake_head()).
    """
    if kinds is None:
        return pages.read(pfns)
    hugetlb = kinds == FrameKind.HUGETLB
    if not hugetlb.any():
        info = pages.read(pfns)
    else:
        first = pfns & ~(pages.hugetlb_pages_described_once - np.uint64(1))
        info = pages.read_any(np.where(hugetlb, first, pfns))
        low_bits = (np.uint64(1) << info.order.astype(np.uint64)) - np.uint64(1)
        info.head_pfn[:] = np.where(hugetlb, pfns & ~low_bits, info.head_pfn)
    cache = (kinds != 0) & (info.mapping != 0) & ((info.kind == 0) | hugetlb)
    info.kind[cache] = kinds[cache]
    return info


def _described(info: PageInfo) -> Columns:
    """The columns of ``FRAME_FACTS`` that are in ``info``; hashes and codes of zero."""
    columns = {name: values for name, values in vars(info).items() if name in FRAME_FACTS}
    columns["hash"] = np.zeros(len(info.ok), np.uint64)
    columns["unknown"] = np.zeros(len(info.ok), np.uint8)
    return columns


def _hash(
    columns: Columns,
    memory: Memory,
    pfns: Words,
    rows: Ints,
    seed: int,
    further: tuple[Further, Ints] | None,
) -> None:
    if further is None:
        found = memory.digests(pfns[rows], digest_of(seed))
        columns["hash"][rows], columns["unknown"][rows] = found
        return
    hasher, mm = further
    unknown = np.empty(len(rows), np.uint8)
    for batch in memory.batches(pfns[rows], unknown, hasher.room):
        some = rows[batch]
        for name, values in hasher.hashes(mm[some]).items():
            columns[name][some] = values
    columns["unknown"][rows] = unknown


def _moved(before: PageInfo, after: PageInfo) -> Mask:
    """Which frames were freed, used for something else, split or merged between two looks."""
    moved: Mask = (
        (before.mapping != after.mapping)
        | (before.head_pfn != after.head_pfn)
        | (before.ok != after.ok)
    )
    return moved

"""The bits and codes in a snapshot's columns."""

from __future__ import annotations

import enum


class MappingFlag(enum.IntFlag):
    """``mappings.flags``: bits of one page table entry (u8)."""

    PROT_NONE = 1  # present, but not accessible: mprotect(PROT_NONE) or a NUMA hint
    HUGE = 2  # a page of a PMD-mapped huge page
    WRITABLE = 4
    DIRTY = 8
    MERGED = 16  # its rmap_item sits on a live stable node
    CHANGED = 32  # the pass before had other bytes or nothing here; only where info has "passes"
    COMPARED = 64  # two passes, one after the other, know what is here
    CHANGED_BEFORE = 128  # it changed between earlier passes, and not before the last one


class FrameKind(enum.IntEnum):
    """``frames.kind``: what the frame is (u8). From SHMEM on: in ``other_frames``, on demand."""

    ANONYMOUS = 1  # PageAnon(), but not
    KSM = 2  # PageKsm()
    SHMEM = 3  # page cache of tmpfs: MAP_SHARED without a file, memfd, System V, /dev/shm
    HUGETLB = 4  # of a VM_HUGETLB VMA, private or shared
    FILE = 5  # page cache of another file


class FrameFlag(enum.IntFlag):
    """``frames.flags``: of the page or, where the kernel keeps it there, of its folio (u32).

    2 was PageKsm() in format 1.
    """

    ZERO = 1  # nothing but zero bytes
    LARGE = 4  # part of a folio of more than one page
    SWAPCACHE = 8
    LRU = 16
    MLOCKED = 32
    PINNED = 64  # folio_maybe_dma_pinned()
    ANON_EXCLUSIVE = 128
    LOCKED = 256
    WRITEBACK = 512
    HWPOISON = 1024
    SWAPBACKED = 2048
    MTE = 4096  # has tags of arm64's memory tagging (PG_mte_tagged)


class Unknown(enum.IntEnum):
    """``frames.unknown``: why a frame has no hash (u8). 0: it has one."""

    HASHED = 0
    EXCLUDED = 1  # left out of the dump by a filter
    TRUNCATED = 2  # the dump ends before it
    UNREADABLE = 3  # the read failed, or the range is not in the dump at all
    CHANGED = 4  # changed or was freed while it was read
    NOT_READ = 5  # left alone on demand (--without-contents); the other reasons go before this one


UNKNOWN_NODE = 0xFFFF
"""``frames.node`` where the NUMA node is not known: only ``--procfs`` may not know it."""

OLD_VISITS, SKIPPING_SCANS = 14, 9
"""With smart_scan ksmd looks at an rmap_item at its visit 14, and in one scan of nine from then on
(skip_age() in mm/ksm.c)."""
AHEAD = 128
"""Of ``mappings.visits``: the full scan that is under way comes to the page yet. The bits below it
are the number of full scans that came to its rmap_item with smart_scan, less a multiple of
``SKIPPING_SCANS`` where they are more than 22."""

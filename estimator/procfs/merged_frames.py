"""Which frames are KSM's where /proc/kpageflags does not say it (6.12): by what smaps counts."""

from __future__ import annotations

import numpy as np

from estimator.arrays import Columns, Ints, Mask, Numbers, Words
from estimator.collect.mappings import Mapped
from estimator.procfs.page_flags import KPF_KSM, frame_words
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.pagemap import own_page
from estimator.snapshot.flags import FrameKind

_DIRTY, _SWAPCACHE = np.uint64(1 << 4), np.uint64(1 << 13)  # as in page_flags.py


def ksm_flag_holds() -> bool:
    """Whether KPF_KSM means what it says: in 6.12 every anonymous page has it.

    There stable_page_flags() tests one of the two bits of PAGE_MAPPING_KSM. A page of our own shows
    it.
    """
    with own_page() as pfn:
        return not frame_words("kpageflags", np.array([pfn], np.uint64))[0] & KPF_KSM


def mark_ksm(
    facts: Columns, pfns: Words, mapped: Mapped, start: Words, smaps: dict[str, Words]
) -> int:
    """Set the kind KSM without KPF_KSM; of how many anonymous frames it stays open.

    ``start``: u64 per VMA. smaps says how many pages of each VMA are KSM's; that is enough where it
    is all or none. A page of a large folio is none, nor is one that is neither dirty nor in the
    swap cache (try_to_merge_one_page() in mm/ksm.c makes it so; other anonymous pages are dirty in
    page tables alone). One mapped at two addresses is: a fork maps it where its parent did. What is
    known of a frame by one VMA helps in the others that map it. Frames that stay open are of the
    kind ANONYMOUS.
    """
    place = np.searchsorted(pfns, mapped.pfn)
    anonymous = (facts["kind"] == FrameKind.ANONYMOUS) | (facts["kind"] == FrameKind.KSM)
    kept = anonymous[place]
    place, vma = place[kept], mapped.vma_id[kept]
    address = start[vma] + mapped.page_index[kept] * np.uint64(PAGE_BYTES)
    could_be = (frame_words("kpageflags", pfns) & (_DIRTY | _SWAPCACHE)) != 0
    could_be &= anonymous & (facts["order"] == 0)
    ksm = could_be & _at_two_addresses(place, address, len(pfns))
    ksm, known = _by_counts(ksm, ksm | ~could_be, place, vma, smaps["KSM"].astype(np.int64))
    facts["kind"][anonymous] = np.where(ksm, FrameKind.KSM, FrameKind.ANONYMOUS)[anonymous]
    return int(np.count_nonzero(~known))


def _by_counts(
    ksm: Mask, known: Mask, place: Ints, vma: Numbers, merged: Ints
) -> tuple[Mask, Mask]:
    """``ksm`` and ``known``, bool per frame, with what follows from ``merged`` pages per VMA.

    ``place``, ``vma``: frame and VMA of each mapping.
    """
    while True:
        found, open_ = (
            np.bincount(vma, weights=which[place], minlength=len(merged)).astype(np.int64)
            for which in (ksm, ~known)
        )
        none, all_ = found == merged, found + open_ == merged
        now_ksm = _of(place[(all_ & ~none)[vma]], ~known)
        now_known = now_ksm | _of(place[none[vma]], ~known)
        if not now_known.any():
            return ksm, known
        ksm, known = ksm | now_ksm, known | now_known


def _at_two_addresses(place: Ints, address: Words, frames: int) -> Mask:
    """bool per frame; ``place``: the frame of each mapping."""
    lowest, highest = np.full(frames, ~np.uint64(0)), np.zeros(frames, np.uint64)
    np.minimum.at(lowest, place, address)
    np.maximum.at(highest, place, address)
    return lowest < highest


def _of(place: Ints, frames: Mask) -> Mask:
    """Those of ``frames``, bool, that are among ``place``."""
    found = np.zeros_like(frames)
    found[place] = True
    return found & frames

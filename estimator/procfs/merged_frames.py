"""Which frames are KSM's where /proc/kpageflags does not say it (6.12): by what smaps counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Words
from estimator.collect.by_pfn import ByPfn
from estimator.collect.mappings import Mapped
from estimator.collect.tables import Table
from estimator.packed import Packed, side_by_side
from estimator.procfs.page_flags import KPF_KSM, frame_words
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.pagemap import own_page
from estimator.snapshot.flags import FrameKind

_NO_ADDRESS = (1 << 64) - 1
_DIRTY, _SWAPCACHE = np.uint64(1 << 4), np.uint64(1 << 13)  # as in page_flags.py


def ksm_flag_holds() -> bool:
    """Whether KPF_KSM means what it says: in 6.12 every anonymous page has it.

    There stable_page_flags() tests one of the two bits of PAGE_MAPPING_KSM. A page of our own shows
    it.
    """
    with own_page() as pfn:
        return not frame_words("kpageflags", np.array([pfn], np.uint64))[0] & KPF_KSM


def mark_ksm(
    facts: Table, pfns: Packed, mapped: Mapped, start: Words, smaps: dict[str, Words]
) -> int:
    """Set the kind KSM without KPF_KSM; of how many anonymous frames it stays open.

    ``start``: u64 per VMA. smaps says how many pages of each VMA are KSM's; that is enough where it
    is all or none. A page of a large folio is none, nor is one that is neither dirty nor in the
    swap cache (try_to_merge_one_page() in mm/ksm.c makes it so; other anonymous pages are dirty in
    page tables alone). One mapped at two addresses is: a fork maps it where its parent did. What is
    known of a frame by one VMA helps in the others that map it. Frames that stay open are of the
    kind ANONYMOUS.
    """
    anonymous, could_be = (ByPfn(pfns, np.bool_, False) for _ in range(2))
    for piece in side_by_side({"pfn": pfns, "kind": facts["kind"], "order": facts["order"]}):
        ours = np.isin(piece["kind"], (FrameKind.ANONYMOUS, FrameKind.KSM))
        clean = (frame_words("kpageflags", piece["pfn"]) & (_DIRTY | _SWAPCACHE)) == 0
        anonymous.put(piece["pfn"], ours)
        could_be.put(piece["pfn"], ours & ~clean & (piece["order"] == 0))
    ksm, known = _at_two_addresses(pfns, mapped, start, anonymous), ByPfn(pfns, np.bool_, False)
    for pfn in pfns.pieces():
        ksm.put(pfn, ksm.of(pfn) & could_be.of(pfn))
        known.put(pfn, ksm.of(pfn) | ~could_be.of(pfn))
    _by_counts(ksm, known, mapped, anonymous, smaps["KSM"].astype(np.int64))
    still_open = 0
    for number, (pfn, kind) in enumerate(zip(pfns.pieces(), facts["kind"].pieces(), strict=True)):
        is_ksm = np.where(ksm.of(pfn), np.uint8(FrameKind.KSM), np.uint8(FrameKind.ANONYMOUS))
        facts["kind"].change(number, np.where(anonymous.of(pfn), is_ksm, kind))
        still_open += int(np.count_nonzero(~known.of(pfn)))
    return still_open


def _by_counts(ksm: ByPfn, known: ByPfn, mapped: Mapped, wanted: ByPfn, merged: Ints) -> None:
    """Put into ``ksm`` and ``known``, bool, what follows from ``merged`` pages per VMA."""
    size, learned = len(merged), True
    while learned:
        found, still_open = np.zeros((2, size), np.int64)
        for vma, pfn in _of(mapped, wanted):
            found += np.bincount(vma[ksm.of(pfn)], minlength=size)
            still_open += np.bincount(vma[~known.of(pfn)], minlength=size)
        none, learned = found == merged, False
        all_ = (found + still_open == merged) & ~none
        for vmas, told in ((all_, (ksm, known)), (none, (known,))):
            for vma, pfn in _of(mapped, wanted):
                fresh = pfn[vmas[vma] & ~known.of(pfn)]
                learned |= len(fresh) > 0
                for which in told:
                    which.put(fresh, True)


def _of(mapped: Mapped, wanted: ByPfn) -> Iterator[tuple[npt.NDArray[np.uint32], Words]]:
    """VMA and PFN of the rows of frames that are ``wanted``, bool; pieces of them."""
    for rows in mapped.pieces():
        there = rows[wanted.of(rows.pfn)]
        yield there.vma_id, there.pfn


def _at_two_addresses(pfns: Packed, mapped: Mapped, start: Words, wanted: ByPfn) -> ByPfn:
    """Which frames are, bool; of those that are ``wanted``, bool."""
    first, two = ByPfn(pfns, np.uint64, _NO_ADDRESS), ByPfn(pfns, np.bool_, False)
    for rows in mapped.pieces():
        there = rows[wanted.of(rows.pfn)]
        address = start[there.vma_id] + there.page_index * np.uint64(PAGE_BYTES)
        fresh = first.of(there.pfn) == _NO_ADDRESS
        first.put(there.pfn[fresh], address[fresh])
        two.put(there.pfn[first.of(there.pfn) != address], True)
    return two

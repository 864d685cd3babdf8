"""Pages mapped, as read from page tables; and the tables of a snapshot made from them."""

from __future__ import annotations

import numpy as np

from estimator.arrays import Bytes, Columns, Words, find, move_up, of_rows
from estimator.collect.hashing import zero_hash
from estimator.collect.mappings import Mapped, distinct, look_up, rows_of
from estimator.snapshot.flags import FrameFlag, FrameKind, Unknown

_NO_FRAME = np.uint32(0xFFFF_FFFF)


def make_tables(
    vmas: Columns, mapped: Mapped, pfns: Words, facts: Columns, seed: int, page_bytes: int
) -> tuple[Columns, Columns]:
    """``mappings`` and ``frames``: of all that is mapped, what is anonymous or KSM's.

    ``facts``: columns of ``FRAME_FACTS``, and further hashes, for the frames ``pfns``, the distinct
    ones of ``mapped``, ascending. The counts are added to ``vmas``. Nothing is known of
    ``batch_references``. The arrays of ``mapped``, ``pfns`` and ``facts`` are used up: the tables
    are made in their memory.
    """
    for name, counts in mapped.counts.items():
        vmas[name] = counts
    keep = facts["ok"] & (facts["kind"] != 0)
    frame_id = np.where(keep, np.cumsum(keep, dtype=np.uint32) - np.uint32(1), _NO_FRAME)
    frame_of = look_up(pfns, frame_id, mapped.pfn)
    kept = frame_of != _NO_FRAME
    ok = facts["ok"]
    if not ok.all():
        gone = np.flatnonzero(~kept)
        lost = mapped.vma_id[gone[~ok[rows_of(pfns, mapped.pfn[gone])]]]
        lost_pages = np.bincount(lost, minlength=len(mapped.first_page))
        vmas["unknown_pages"] += lost_pages.astype(np.uint64)
    mappings = {
        "vma_id": move_up(mapped.vma_id, kept),
        "page_index": move_up(mapped.page_index, kept),
        "frame_id": move_up(frame_of, kept),
        "flags": move_up(mapped.flags, kept),
    }
    frames = {"pfn": move_up(pfns, keep)}
    frames |= {n: move_up(v, keep) for n, v in facts.items() if n != "ok"}
    hashed = frames["unknown"] == Unknown.HASHED
    zero = hashed & (frames["hash"] == zero_hash(seed, page_bytes))
    frames["flags"][zero] |= np.uint32(FrameFlag.ZERO)
    for name in [name for name in frames if "hash" in name]:
        frames[name] = np.ma.MaskedArray(frames[name], ~hashed)
    none = np.zeros(len(frames["pfn"]), np.uint8)
    frames["batch_references"] = np.ma.MaskedArray(none, np.ones(len(none), np.bool_))
    return mappings, frames


def kinds_of(pfns: Words, mapped: Mapped, kinds: Bytes) -> Bytes:
    """What ``kinds`` (u8 per VMA, 0: nothing) says of each of the frames ``pfns``; else 0.

    ``pfns``: ascending and distinct.
    """
    rows = np.flatnonzero(kinds[mapped.vma_id])
    place, there = find(pfns, mapped.pfn[rows])
    found = np.zeros(len(pfns), np.uint8)
    found[place] = kinds[mapped.vma_id[rows[there]]]
    return found


def other_tables(
    mapped: Mapped, pfns: Words, facts: Columns, seed: int, page_bytes: int
) -> tuple[Columns, Columns]:
    """``other_mappings`` and ``other_frames``; arguments as for ``make_tables``, to call before it.

    Their frames are taken out of ``facts``: they are of no kind any more.
    """
    other = facts["ok"] & (facts["kind"] >= FrameKind.SHMEM)
    here = mapped.keep(look_up(pfns, other, mapped.pfn))
    tables = make_tables({}, here, pfns[other], of_rows(facts, other), seed, page_bytes)
    facts["kind"][other] = 0
    return tables


def only_mapped(mapped: Mapped, pfns: Words, facts: Columns) -> tuple[Words, Columns]:
    """Of the frames ``pfns`` with their ``facts``, those that ``mapped`` has."""
    used = np.isin(pfns, distinct(mapped.pfn), assume_unique=True)
    return pfns[used], of_rows(facts, used)

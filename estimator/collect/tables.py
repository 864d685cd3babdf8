"""Pages mapped, as read from page tables; and the tables of a snapshot made from them."""

from __future__ import annotations

import numpy as np

from estimator.arrays import Bytes, Columns
from estimator.collect.by_pfn import ByPfn
from estimator.collect.hashing import zero_hash
from estimator.collect.mappings import Mapped
from estimator.packed import Packed, add, like, side_by_side, used_up
from estimator.snapshot.flags import FrameFlag, FrameKind, Unknown

Table = dict[str, Packed]
_NOT_READ, _NO_FRAME = 0xFFFF_FFFF, 0xFFFF_FFFE


def make_tables(
    vmas: Columns, mapped: Mapped, pfns: Packed, facts: Table, seed: int, page_bytes: int
) -> tuple[Table, Table]:
    """``mappings`` and ``frames``: of all that is mapped, what is anonymous or KSM's.

    ``facts``: columns of ``FRAME_FACTS``, and further hashes, for the frames ``pfns``, the distinct
    ones of ``mapped``, ascending. The counts are added to ``vmas``. Nothing is known of
    ``batch_references``. ``mapped``, ``pfns`` and ``facts`` are used up.
    """
    for name, counts in mapped.counts.items():
        vmas[name] = counts
    frames, frame_of = _frames(pfns, facts, zero_hash(seed, page_bytes))
    mappings = {
        "vma_id": Packed(np.uint32),
        "page_index": Packed(np.uint64),
        "frame_id": Packed(np.uint32),
        "flags": Packed(np.uint8),
    }
    for rows in mapped.used_up():
        frame = frame_of.of(rows.pfn)
        lost = frame == _NOT_READ
        if lost.any():
            pages = np.bincount(rows.vma_id[lost], minlength=len(mapped.first_page))
            vmas["unknown_pages"] += pages.astype(np.uint64)
        columns: Columns = {
            "vma_id": rows.vma_id,
            "page_index": rows.page_index,
            "frame_id": frame,
            "flags": rows.flags,
        }
        add(mappings, columns, frame < _NO_FRAME)
    return mappings, frames


def _frames(pfns: Packed, facts: Table, zeroes: int) -> tuple[Table, ByPfn]:
    """The table ``frames``; and frame_id by PFN, u32, else why there is none."""
    frame_of = ByPfn(pfns, np.uint32, _NO_FRAME)
    frames = {"pfn": Packed(np.uint64)} | {
        name: Packed(column.dtype, nullable="hash" in name)
        for name, column in facts.items()
        if name != "ok"
    }
    frames["batch_references"] = Packed(np.uint8, nullable=True)
    for piece in used_up({"pfn": pfns, **facts}):
        ok = piece.pop("ok")
        keep = ok & (piece["kind"] != 0)
        number = np.cumsum(keep, dtype=np.uint32) + np.uint32(len(frames["pfn"])) - np.uint32(1)
        none = np.where(ok, np.uint32(_NO_FRAME), np.uint32(_NOT_READ))
        frame_of.put(piece["pfn"], np.where(keep, number, none))
        hashed = piece["unknown"] == Unknown.HASHED
        zero = hashed & (piece["hash"] == zeroes)
        piece["flags"] = piece["flags"] | zero * np.uint32(FrameFlag.ZERO)
        for name in [name for name in piece if "hash" in name]:
            piece[name] = np.ma.MaskedArray(piece[name], ~hashed)
        unknown = np.ones(len(keep), np.bool_)
        piece["batch_references"] = np.ma.MaskedArray(np.zeros(len(keep), np.uint8), unknown)
        add(frames, piece, keep)
    return frames, frame_of


def kinds_of(pfns: Packed, mapped: Mapped, kinds: Bytes) -> ByPfn:
    """What ``kinds`` (u8 per VMA, 0: nothing) says of each of the frames ``pfns``; else 0.

    ``pfns``: ascending and distinct.
    """
    found = ByPfn(pfns, np.uint8, 0)
    for rows in mapped.pieces():
        kind = kinds[rows.vma_id]
        there = (kind != 0) & found.has(rows.pfn)
        found.put(rows.pfn[there], kind[there])
    return found


def other_tables(
    mapped: Mapped, pfns: Packed, facts: Table, seed: int, page_bytes: int
) -> tuple[Table, Table]:
    """``other_mappings`` and ``other_frames``; arguments as for ``make_tables``, to call before it.

    Their frames are taken out of ``facts``: they are of no kind any more.
    """
    there = {"pfn": pfns, **facts}
    others, other_of = like(there), ByPfn(pfns, np.bool_, False)
    for number, piece in enumerate(side_by_side(there)):
        other = piece["ok"] & (piece["kind"] >= FrameKind.SHMEM)
        if other.any():
            other_of.put(piece["pfn"], other)
            add(others, piece, other)
            facts["kind"].change(number, np.where(other, np.uint8(0), piece["kind"]))
    here = Mapped({}, mapped.first_page)
    for rows in mapped.pieces():
        here.append(rows[other_of.of(rows.pfn)])
    return make_tables({}, here, others.pop("pfn"), others, seed, page_bytes)


def leave_out_unmapped(mapped: Mapped, pfns: Packed, facts: Table) -> None:
    """Let those of the frames ``pfns`` that ``mapped`` has not be of no kind in their ``facts``."""
    used = ByPfn(pfns, np.bool_, False)
    for rows in mapped.pieces():
        used.put(rows.pfn, True)
    for number, piece in enumerate(side_by_side({"pfn": pfns, "kind": facts["kind"]})):
        here = used.of(piece["pfn"])
        if not here.all():
            facts["kind"].change(number, np.where(here, piece["kind"], np.uint8(0)))

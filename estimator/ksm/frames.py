"""What the rules need to know of every frame, gathered once from the snapshot's tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator import arrays as bulk
from estimator.arrays import Bytes, Ints, Mask, Narrow, Numbers, Words
from estimator.ksm.candidates import Candidates
from estimator.ksm.mergeable import Pins, clean_read_only
from estimator.ksm.rules import Rules
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag, Unknown
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces

NEVER = np.iinfo(np.int32).max  # a row that no scan reaches


def distinct(numbers: Ints | Numbers) -> Ints:
    """``np.unique`` of small numbers from 0, many times faster for millions of them."""
    return np.flatnonzero(np.bincount(numbers))


@dataclass(frozen=True)
class FrameFacts:
    """What matters of every frame, one entry of every array per row of ``frames``.

    ``known``: its content is. ``items``: candidate mappings. ``first``: the row of the first one,
    else NEVER. ``mapcount``: all mappings, system-wide. ``folio``: number of the large folio, else
    -1. ``pinned``: see ``mergeable.py``. ``blocked``: no item of it can be merged.
    ``maybe_blocked``: some can and some can't. ``zero``: zero bytes. ``tagged``: by MTE.
    ``mlocked``: PG_mlocked. ``ksm``: PageKsm(). ``node``: it is the KSM page of a live stable node.
    ``on_node``: how many of the items are on that node already. ``opaque``: an item is PROT_NONE
    where that hides it from searches of the unstable tree.

    To be read alone: one that is the same of all frames may be a single number in memory. Numbers
    may be of one byte (``arrays.narrow``): no reckoning with two of them.
    """

    known: Mask
    items: Narrow
    first: Numbers
    mapcount: Narrow
    folio: Numbers
    pinned: Mask
    blocked: Mask
    maybe_blocked: Mask
    zero: Mask
    tagged: Mask
    mlocked: Mask
    ksm: Mask
    node: Mask
    on_node: Narrow
    opaque: Mask


@dataclass(frozen=True)
class FrameLooks:
    """What the rows of ``frames`` say by themselves; fields as in ``FrameFacts``, and ``large`` and
    ``exclusive`` (PageAnonExclusive()), bool per frame.
    """

    known: Mask
    ksm: Mask
    large: Mask
    exclusive: Mask
    zero: Mask
    tagged: Mask
    mlocked: Mask
    mapcount: Narrow
    pinned: Mask


def look_at_frames(snapshot: Snapshot) -> FrameLooks:
    """Look at each row of ``frames``."""
    frames = snapshot.frames
    count = len(frames)
    known, ksm, large, exclusive = (np.empty(count, np.bool_) for _ in range(4))
    zero, tagged, mlocked = (np.empty(count, np.bool_) for _ in range(3))
    mapcount = np.empty(count, np.int32)
    pins = Pins(count, snapshot.info.get("damon_awake", 0))

    def look(each: tuple[slice, pd.DataFrame]) -> tuple[Ints, Words] | None:
        piece, some = each
        flags = some["flags"].to_numpy()
        known[piece] = some["unknown"].to_numpy() == Unknown.HASHED
        ksm[piece] = some["kind"].to_numpy() == FrameKind.KSM
        large[piece] = (flags & FrameFlag.LARGE) != 0
        exclusive[piece] = (flags & FrameFlag.ANON_EXCLUSIVE) != 0
        zero[piece] = (flags & (FrameFlag.ZERO | FrameFlag.MTE)) == FrameFlag.ZERO
        mlocked[piece] = (flags & FrameFlag.MLOCKED) != 0
        tagged[piece] = (flags & FrameFlag.MTE) != 0
        mapcount[piece] = some["mapcount"].to_numpy()
        return pins.look(piece, some)

    for seen in bulk.in_turn(look, in_pieces(frames, ("unknown", "kind", *pins.columns))):
        pins.note(seen)
    known, ksm, large, exclusive, zero, tagged, mlocked, pinned = map(
        bulk.alike, (known, ksm, large, exclusive, zero, tagged, mlocked, pins.pinned())
    )
    return FrameLooks(
        known, ksm, large, exclusive, zero, tagged, mlocked, bulk.narrow(mapcount), pinned
    )


def items_of_frames(candidates: Candidates, frames: int) -> tuple[Narrow, Numbers]:
    """``items`` and ``first`` of ``FrameFacts``, also where the content is not known."""
    first = np.full(frames, NEVER, dtype=np.int32)
    for piece in reversed(list(bulk.pieces(len(candidates.frame)))):
        first[candidates.frame[piece][::-1]] = candidates.row_numbers(piece)[::-1]
    return bulk.narrow(bulk.count(candidates.frame, frames)), first


def frame_facts(
    snapshot: Snapshot,
    candidates: Candidates,
    rules: Rules,
    looks: FrameLooks,
    items: Narrow,
    first: Numbers,
) -> FrameFacts:
    """Gather the facts; linear in the number of mappings and frames.

    ``items``, ``first``: of ``items_of_frames``; they become those of the facts.
    """
    frames, count = snapshot.frames, len(snapshot.frames)
    known, ksm, large, pinned = looks.known, looks.ksm, looks.large, looks.pinned
    if not known.all():
        items[~known] = 0
        first[~known] = NEVER

    node = np.zeros(count, dtype=bool)
    node[live_node_frames(snapshot)] = True
    on_node = np.broadcast_to(np.int32(0), count)
    if node.any():
        on_node = np.zeros(count, np.int32)
        for frame, _, (flags,) in items_with(snapshot, candidates, "flags"):
            merged = ((flags & MappingFlag.MERGED) != 0) & node[frame]
            np.add.at(on_node, frame[merged], np.int32(1))

    orphan = ksm & ~node
    blocked = orphan | (pinned & (large | looks.exclusive))
    maybe_blocked = pinned & ~blocked & (items > 0)
    if maybe_blocked.any():
        free = _items_without_reference_test(snapshot, candidates, maybe_blocked)
        blocked |= maybe_blocked & (free == 0)
        maybe_blocked &= (free > 0) & (free < items)

    opaque = np.broadcast_to(np.False_, count)
    if rules.prot_none_blocks_tree:
        opaque = np.zeros(count, dtype=bool)
        for frame, _, (flags,) in items_with(snapshot, candidates, "flags"):
            opaque[frame[(flags & MappingFlag.PROT_NONE) != 0]] = True
    return FrameFacts(
        known=known,
        items=items,
        first=first,
        mapcount=looks.mapcount,
        folio=_folios(frames, large),
        pinned=pinned,
        blocked=bulk.alike(blocked),
        maybe_blocked=bulk.alike(maybe_blocked),
        zero=looks.zero,
        tagged=looks.tagged,
        mlocked=looks.mlocked,
        ksm=ksm,
        node=bulk.alike(node),
        on_node=bulk.narrow(on_node) if node.any() else on_node,
        opaque=opaque,
    )


def large_folios(frames: pd.DataFrame) -> Numbers:
    """i32 per frame: the number of its large folio, else -1; to be read alone."""
    return _folios(frames, frames_with(frames, FrameFlag.LARGE))


def _folios(frames: pd.DataFrame, large: Mask) -> Numbers:
    if not large.any():
        return np.broadcast_to(np.int32(-1), len(frames))
    folio = np.full(len(frames), -1, dtype=np.int32)
    head = frames["head_pfn"].to_numpy()[large]
    folio[large] = np.cumsum(np.append(True, head[1:] != head[:-1]), dtype=np.int32) - 1
    return folio


def frames_with(frames: pd.DataFrame, flag: FrameFlag) -> Mask:
    """Bool per frame: it has ``flag``; to be read alone."""
    found = np.empty(len(frames), np.bool_)
    for piece, some in in_pieces(frames, ("flags",)):
        found[piece] = (some["flags"].to_numpy() & flag) != 0
    return bulk.alike(found)


def live_node_frames(snapshot: Snapshot) -> Ints:
    """i64: frame_id of every live stable node that somebody maps, in the kernel's search order.

    A node is live as long as its page points back at it (ksm_get_folio() in mm/ksm.c).
    """
    nodes = snapshot.stable_nodes
    frame_id = nodes["frame_id"]
    live = nodes["live"].to_numpy() & frame_id.notna().to_numpy()
    return frame_id[live].to_numpy(dtype=np.int64)


def items_with(
    snapshot: Snapshot, candidates: Candidates, *names: str
) -> Iterator[tuple[npt.NDArray[np.uint32], Numbers, list[Bytes]]]:
    """The frame_id (u32), the row (i32) and some columns (u8) of every candidate, by pieces."""
    end = 0
    for piece, some in in_pieces(snapshot.mappings, names):
        here = slice(end, end := candidates.before(piece.stop))
        rows = candidates.row_numbers(here)
        columns = [some[name].to_numpy().take(rows - piece.start) for name in names]
        yield candidates.frame[here], rows, columns


def _items_without_reference_test(
    snapshot: Snapshot, candidates: Candidates, frames: Mask
) -> Numbers:
    free = np.zeros(len(frames), np.int32)
    for frame, _, (flags,) in items_with(snapshot, candidates, "flags"):
        np.add.at(free, frame[frames[frame] & clean_read_only(flags)], np.int32(1))
    return free

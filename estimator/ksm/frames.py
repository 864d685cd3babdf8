"""What the rules need to know of every frame, gathered once from the snapshot's tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from estimator import arrays as bulk
from estimator.arrays import Ints, Mask, Numbers
from estimator.ksm.candidates import Candidates
from estimator.ksm.mergeable import clean_read_only, pinned_frames
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
    ``maybe_blocked``: some can and some can't. ``zero``: zero bytes. ``mlocked``: PG_mlocked.
    ``ksm``: PageKsm(). ``node``: it is the KSM page of a live stable node. ``on_node``: how many of
    the items are on that node already. ``opaque``: an item is PROT_NONE where that hides it from
    searches of the unstable tree.

    To be read alone: one that is the same of all frames may be a single number in memory.
    """

    known: Mask
    items: Numbers
    first: Numbers
    mapcount: Numbers
    folio: Numbers
    pinned: Mask
    blocked: Mask
    maybe_blocked: Mask
    zero: Mask
    mlocked: Mask
    ksm: Mask
    node: Mask
    on_node: Numbers
    opaque: Mask


def frame_facts(snapshot: Snapshot, candidates: Candidates, rules: Rules) -> FrameFacts:
    """Gather the facts; linear in the number of mappings and frames."""
    frames = snapshot.frames
    count = len(frames)
    known, ksm, large, exclusive, zero, mlocked = (np.empty(count, np.bool_) for _ in range(6))
    mapcount = np.empty(count, np.int32)
    for piece, some in in_pieces(frames, ("unknown", "kind", "flags", "mapcount")):
        flags = some["flags"].to_numpy()
        known[piece] = some["unknown"].to_numpy() == Unknown.HASHED
        ksm[piece] = some["kind"].to_numpy() == FrameKind.KSM
        large[piece] = (flags & FrameFlag.LARGE) != 0
        exclusive[piece] = (flags & FrameFlag.ANON_EXCLUSIVE) != 0
        zero[piece] = (flags & (FrameFlag.ZERO | FrameFlag.MTE)) == FrameFlag.ZERO
        mlocked[piece] = (flags & FrameFlag.MLOCKED) != 0
        mapcount[piece] = some["mapcount"].to_numpy()
    known, ksm, large, exclusive, zero, mlocked = map(
        bulk.alike, (known, ksm, large, exclusive, zero, mlocked)
    )
    items = bulk.count(candidates.frame, count)
    first = np.full(count, NEVER, dtype=np.int32)
    for piece in reversed(list(bulk.pieces(len(candidates.frame)))):
        first[candidates.frame[piece][::-1]] = candidates.row_numbers(piece)[::-1]
    if not known.all():
        items[~known] = 0
        first[~known] = NEVER

    node = np.zeros(count, dtype=bool)
    node[live_node_frames(snapshot)] = True
    on_node = np.broadcast_to(np.int32(0), count)
    if node.any():
        merged = candidates.frame[_on_node(snapshot, candidates, node)]
        on_node = np.bincount(merged, minlength=count).astype(np.int32)

    pinned = bulk.alike(pinned_frames(frames, snapshot.info.get("damon_awake", 0)))
    orphan = ksm & ~node
    blocked = orphan | (pinned & (large | exclusive))
    maybe_blocked = pinned & ~blocked & (items > 0)
    if maybe_blocked.any():
        free = _items_without_reference_test(snapshot, candidates, maybe_blocked)
        blocked |= maybe_blocked & (free == 0)
        maybe_blocked &= (free > 0) & (free < items)

    opaque = np.broadcast_to(np.False_, count)
    if rules.prot_none_blocks_tree:
        opaque = np.zeros(count, dtype=bool)
        prot_none = (snapshot.mappings["flags"].to_numpy() & MappingFlag.PROT_NONE) != 0
        opaque[candidates.frame[prot_none[candidates.row_numbers()]]] = True
    return FrameFacts(
        known=known,
        items=items,
        first=first,
        mapcount=mapcount,
        folio=large_folios(frames),
        pinned=pinned,
        blocked=bulk.alike(blocked),
        maybe_blocked=bulk.alike(maybe_blocked),
        zero=zero,
        mlocked=mlocked,
        ksm=ksm,
        node=bulk.alike(node),
        on_node=on_node,
        opaque=opaque,
    )


def large_folios(frames: pd.DataFrame) -> Numbers:
    """i32 per frame: the number of its large folio, else -1; to be read alone."""
    large = np.empty(len(frames), np.bool_)
    for piece, some in in_pieces(frames, ("flags",)):
        large[piece] = (some["flags"].to_numpy() & FrameFlag.LARGE) != 0
    if not large.any():
        return np.broadcast_to(np.int32(-1), len(frames))
    folio = np.full(len(frames), -1, dtype=np.int32)
    head = frames["head_pfn"].to_numpy()[large]
    folio[large] = np.cumsum(np.append(True, head[1:] != head[:-1]), dtype=np.int32) - 1
    return folio


def live_node_frames(snapshot: Snapshot) -> Ints:
    """i64: frame_id of every live stable node that somebody maps, in the kernel's search order.

    A node is live as long as its page points back at it (ksm_get_folio() in mm/ksm.c).
    """
    nodes = snapshot.stable_nodes
    frame_id = nodes["frame_id"]
    live = nodes["live"].to_numpy() & frame_id.notna().to_numpy()
    return frame_id[live].to_numpy(dtype=np.int64)


def _on_node(snapshot: Snapshot, candidates: Candidates, node: Mask) -> Mask:
    flags = snapshot.mappings["flags"].to_numpy()
    if candidates.rows is not None:
        flags = flags[candidates.rows]
    on_node: Mask = ((flags & MappingFlag.MERGED) != 0) & node[candidates.frame]
    return on_node


def _items_without_reference_test(snapshot: Snapshot, candidates: Candidates, frames: Mask) -> Ints:
    chosen = np.flatnonzero(frames[candidates.frame])
    flags = snapshot.mappings["flags"].to_numpy()[candidates.row_numbers()[chosen]]
    free = clean_read_only(flags)
    return np.bincount(candidates.frame[chosen[free]], minlength=len(frames))

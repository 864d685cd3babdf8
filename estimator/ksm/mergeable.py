"""Which pages ksmd can't merge because somebody else holds them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, Mask
from estimator.snapshot.flags import FrameFlag, MappingFlag
from estimator.snapshot.stored_table import in_pieces

_REFERENCES_OF_KDAMOND = 2
_COLUMNS = ("flags", "mapcount", "folio_mapcount", "refcount", "order", "batch_references")


def pinned_frames(frames: pd.DataFrame, damon_awake: int, empty: Empty = np.empty) -> Mask:
    """Bool per frame: it, or its folio, has references besides its mappings and the swap cache.

    ``damon_awake``: how many threads of DAMON were not asleep.

    References of per-CPU batches do not count: ksmd drains them at the start of every full scan
    (lru_add_drain_all() in scan_get_next_rmap_item()). Where the snapshot does not know them, a
    reference more on a page that is not on an LRU list is taken for one. Nor do the one or two that
    go with a lock, which somebody holds for a moment, or that kdamond has while it looks at a folio
    (damon_pa_mkold() in mm/damon/paddr.c; once more damon_pmdp_mkold() in ops-common.c on the way):
    it holds the lock in part of that time only, so as many folios as it has threads awake may be
    held so without one. Sources: write_protect_page() in mm/ksm.c, can_split_folio() in
    mm/huge_memory.c.
    """
    names = (*_COLUMNS, "head_pfn") if damon_awake else _COLUMNS
    pinned = empty(len(frames), np.bool_)
    seen, heads = [np.zeros(0, np.int64)], np.zeros(0, np.uint64)
    for piece, some in in_pieces(frames, names):
        pinned[piece], maybe_seen = _pinned(some)
        if damon_awake and len(heads) <= damon_awake:
            seen.append(np.flatnonzero(maybe_seen) + piece.start)
            heads = np.union1d(heads, some["head_pfn"].to_numpy()[maybe_seen])
    if damon_awake and len(heads) <= damon_awake:
        pinned[np.concatenate(seen)] = False
    return pinned


def _pinned(frames: pd.DataFrame) -> tuple[Mask, Mask]:
    """Which of ``frames`` are pinned, and which of these kdamond may look at."""
    flags = frames["flags"].to_numpy()
    large = (flags & FrameFlag.LARGE) != 0
    mapcount = np.where(large, frames["folio_mapcount"].to_numpy(), frames["mapcount"].to_numpy())
    extra = frames["refcount"].to_numpy() - mapcount
    swapcache = (flags & FrameFlag.SWAPCACHE) != 0
    if swapcache.any():
        pages = np.left_shift(1, frames["order"].to_numpy()[swapcache].astype(np.int32))
        extra[swapcache] -= np.where(large[swapcache], pages, 1)
    batches = frames["batch_references"]
    known = batches.notna().to_numpy()
    held = batches.to_numpy(dtype=np.int32, na_value=0)
    extra -= np.minimum(held, np.maximum(extra, 0))
    in_lru_batch = ~known & ((flags & FrameFlag.LRU) == 0)
    in_somebodys_hands = (flags & FrameFlag.LOCKED) != 0
    one_or_two = (extra >= 1) & (extra <= _REFERENCES_OF_KDAMOND)
    passing = ((extra == 1) & in_lru_batch) | (one_or_two & in_somebodys_hands)
    pinned = (extra != 0) & ~passing
    return pinned, pinned & one_or_two & ((flags & FrameFlag.PINNED) == 0)


def clean_read_only(flags: npt.NDArray[np.uint8]) -> Mask:
    """Bool per mapping: its PTE is clean and read-only.

    write_protect_page() does not look at the references of such a page, unless it is exclusive.
    """
    clean: Mask = (flags & (MappingFlag.WRITABLE | MappingFlag.DIRTY)) == 0
    return clean

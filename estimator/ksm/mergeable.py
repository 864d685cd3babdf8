"""Which pages ksmd can't merge because somebody else holds them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Mask
from estimator.snapshot.flags import FrameFlag, MappingFlag

_REFERENCES_OF_KDAMOND = 2


def pinned_frames(frames: pd.DataFrame) -> Mask:
    """Bool per frame: it, or its folio, has references besides its mappings and the swap cache.

    Those of per-CPU batches are none: ksmd drains them at the start of every full scan
    (lru_add_drain_all() in scan_get_next_rmap_item()). Where the snapshot does not know them, a
    reference more on a page that is not on an LRU list is taken for one. Nor are the one or two
    that go with a lock, which somebody holds for a moment (kdamond: damon_pa_mkold() in
    mm/damon/paddr.c, and once more damon_pmdp_mkold() in ops-common.c on the way). Sources:
    write_protect_page() in mm/ksm.c, can_split_folio() in mm/huge_memory.c.
    """
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
    passing = ((extra == 1) & in_lru_batch) | (
        (extra >= 1) & (extra <= _REFERENCES_OF_KDAMOND) & in_somebodys_hands
    )
    pinned: Mask = (extra != 0) & ~passing
    return pinned


def clean_read_only(flags: npt.NDArray[np.uint8]) -> Mask:
    """Bool per mapping: its PTE is clean and read-only.

    write_protect_page() does not look at the references of such a page, unless it is exclusive.
    """
    clean: Mask = (flags & (MappingFlag.WRITABLE | MappingFlag.DIRTY)) == 0
    return clean

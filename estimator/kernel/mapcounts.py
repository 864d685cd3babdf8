"""Mappings of the pages of large folios, where the kernel does not count them."""

from __future__ import annotations

import numpy as np

from estimator.arrays import Columns
from estimator.snapshot.flags import FrameFlag, MappingFlag


def derive_mapcounts(mappings: Columns, frames: Columns) -> int:
    """Put the mappings found in place of ``mapcount`` in ``frames``; of how many frames.

    With CONFIG_NO_PAGE_MAPCOUNT (6.15+, include/linux/rmap.h) page._mapcount of large folios stays
    -1, only the whole folio's mappings are counted. Nothing tells the option but that: every page
    of a large folio that an entry of its own maps has the count of its huge mappings, often 0.
    """
    large = (frames["flags"] & np.uint32(FrameFlag.LARGE)) != 0
    if not large.any():
        return 0
    frame = mappings["frame_id"]
    huge = (mappings["flags"] & np.uint8(MappingFlag.HUGE)) != 0
    found = np.bincount(frame, minlength=len(large))
    found_huge = np.bincount(frame[huge], minlength=len(large))
    kept = frames["mapcount"]
    by_page = large & (found > found_huge)
    if not by_page.any() or (kept > found_huge)[by_page].any():
        return 0
    frames["mapcount"] = np.where(by_page, found, kept).astype(np.int32)
    return int(np.count_nonzero(by_page))

"""Mappings of the pages of large folios, where the kernel does not count them."""

from __future__ import annotations

import numpy as np

from estimator.collect.tables import Table
from estimator.packed import Packed, side_by_side
from estimator.snapshot.flags import FrameFlag, MappingFlag


def derive_mapcounts(mappings: Table, frames: Table) -> int:
    """Put the mappings found in place of ``mapcount`` in ``frames``; of how many frames.

    With CONFIG_NO_PAGE_MAPCOUNT (6.15+, include/linux/rmap.h) page._mapcount of large folios stays
    -1, only the whole folio's mappings are counted. Nothing tells the option but that: every page
    of a large folio that an entry of its own maps has the count of its huge mappings, often 0.
    """
    large = np.uint32(FrameFlag.LARGE)
    if not any((flags & large).any() for flags in frames["flags"].pieces()):
        return 0
    found, found_huge = np.zeros((2, len(frames["flags"])), np.int32)
    for rows in side_by_side({name: mappings[name] for name in ("frame_id", "flags")}):
        np.add.at(found, rows["frame_id"], np.int32(1))
        huge = (rows["flags"] & np.uint8(MappingFlag.HUGE)) != 0
        np.add.at(found_huge, rows["frame_id"][huge], np.int32(1))
    derived, begin, kept = 0, 0, Packed(np.int32)
    for rows in side_by_side({name: frames[name] for name in ("flags", "mapcount")}):
        here = slice(begin, begin + len(rows["flags"]))
        by_page = ((rows["flags"] & large) != 0) & (found[here] > found_huge[here])
        if (rows["mapcount"] > found_huge[here])[by_page].any():
            return 0
        kept.append(np.where(by_page, found[here], rows["mapcount"]))
        derived, begin = derived + int(np.count_nonzero(by_page)), here.stop
    if derived:
        frames["mapcount"] = kept
    return derived

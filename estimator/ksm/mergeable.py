"""Which pages ksmd can't merge because somebody else holds them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, Ints, Mask, Words, in_turn
from estimator.snapshot.flags import FrameFlag, MappingFlag
from estimator.snapshot.stored_table import in_pieces

_REFERENCES_OF_KDAMOND = 2
_COLUMNS = ("flags", "mapcount", "folio_mapcount", "refcount", "order", "batch_references")


def pinned_frames(frames: pd.DataFrame, damon_awake: int, empty: Empty = np.empty) -> Mask:
    """Bool per frame: it, or its folio, has references besides its mappings and the swap cache.

    ``damon_awake``: how many threads of DAMON were not asleep. Where references are not known, none
    is taken to be pinned.

    References of per-CPU batches do not count: ksmd drains them at the start of every full scan
    (lru_add_drain_all() in scan_get_next_rmap_item()). Where the snapshot does not know them, a
    reference more on a page that is not on an LRU list is taken for one. Nor do the one or two that
    go with a lock, which somebody holds for a moment, or that kdamond has while it looks at a folio
    (damon_pa_mkold() in mm/damon/paddr.c; once more damon_pmdp_mkold() in ops-common.c on the way):
    it holds the lock in part of that time only, so as many folios as it has threads awake may be
    held so without one. Sources: write_protect_page() in mm/ksm.c, can_split_folio() in
    mm/huge_memory.c.
    """
    pins = Pins(len(frames), damon_awake, empty)
    for seen in in_turn(lambda each: pins.look(*each), in_pieces(frames, pins.columns)):
        pins.note(seen)
    return pins.pinned()


class Pins:
    """``pinned_frames`` for who goes through the frames anyway: ``look`` at each piece.

    In any thread, and ``note`` what it gives in one. ``columns``: what of ``frames`` it looks at.
    """

    def __init__(self, frames: int, damon_awake: int, empty: Empty = np.empty) -> None:
        self.columns = (*_COLUMNS, "head_pfn") if damon_awake else _COLUMNS
        self._awake, self._pinned = damon_awake, empty(frames, np.bool_)
        self._seen, self._heads = [np.zeros(0, np.int64)], np.zeros(0, np.uint64)

    def look(self, piece: slice, frames: pd.DataFrame) -> tuple[Ints, Words] | None:
        """At the rows ``piece`` of ``frames``: which of them kdamond may look at, their folios."""
        self._pinned[piece], maybe_seen = _pinned(frames)
        if not self._awake:
            return None
        rows = np.flatnonzero(maybe_seen)
        return rows + piece.start, frames["head_pfn"].to_numpy()[rows]

    def note(self, seen: tuple[Ints, Words] | None) -> None:
        """What ``look`` gave for a piece."""
        if seen is not None and len(self._heads) <= self._awake:
            self._seen.append(seen[0])
            self._heads = np.union1d(self._heads, seen[1])

    def pinned(self) -> Mask:
        """Bool per frame, of all that were noted."""
        if self._awake and len(self._heads) <= self._awake:
            self._pinned[np.concatenate(self._seen)] = False
        return self._pinned


def _pinned(frames: pd.DataFrame) -> tuple[Mask, Mask]:
    """Which of ``frames`` are pinned, and which of these kdamond may look at."""
    pinned, maybe_seen = np.zeros((2, len(frames)), np.bool_)
    flags, mapcount, refcount = (
        frames[name].to_numpy() for name in ("flags", "mapcount", "refcount")
    )
    large = (flags & FrameFlag.LARGE) != 0
    if large.any():
        mapcount = np.where(large, frames["folio_mapcount"].to_numpy(), mapcount)
    swapcache = (flags & FrameFlag.SWAPCACHE) != 0
    judged = refcount >= 0  # /proc does not say it
    odd = np.flatnonzero(((refcount != mapcount) | swapcache) & judged)  # others are as they should
    if not len(odd):
        return pinned, maybe_seen
    extra = refcount[odd] - mapcount[odd]
    flags, large, swapcache = flags[odd], large[odd], swapcache[odd]
    pages = np.left_shift(1, frames["order"].to_numpy()[odd].astype(np.int32))
    extra -= np.where(swapcache, np.where(large, pages, 1), 0)
    batches = frames["batch_references"].iloc[odd]
    known = batches.notna().to_numpy()
    held = batches.to_numpy(dtype=np.int32, na_value=0)
    extra -= np.minimum(held, np.maximum(extra, 0))
    in_lru_batch = ~known & ((flags & FrameFlag.LRU) == 0)
    in_somebodys_hands = (flags & FrameFlag.LOCKED) != 0
    one_or_two = (extra >= 1) & (extra <= _REFERENCES_OF_KDAMOND)
    passing = ((extra == 1) & in_lru_batch) | (one_or_two & in_somebodys_hands)
    held_on = (extra != 0) & ~passing
    pinned[odd] = held_on
    maybe_seen[odd] = held_on & one_or_two & ((flags & FrameFlag.PINNED) == 0)
    return pinned, maybe_seen


def clean_read_only(flags: npt.NDArray[np.uint8]) -> Mask:
    """Bool per mapping: its PTE is clean and read-only.

    write_protect_page() does not look at the references of such a page, unless it is exclusive.
    """
    clean: Mask = (flags & (MappingFlag.WRITABLE | MappingFlag.DIRTY)) == 0
    return clean

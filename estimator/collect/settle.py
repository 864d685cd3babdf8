"""Memory that changes while it is read: what is said of it held when it was looked at twice.

Page tables and frames are freed and used again under the reader. So the page tables are walked
again after the frames were hashed, and a page counts where both walks found the same frame. What
is new in the later walk is hashed too, and the tables are walked once more, a few times at most.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns, Ints, Words, find
from estimator.collect.mappings import Mapped, distinct

_WALKS = 5
_ENOUGH = 1000  # end when less than one page in so many has changed since the last walk


def settle(
    mapped: Mapped,
    pfns: Words,
    facts: Columns,
    walk: Callable[[], Mapped],
    look: Callable[[Words], Columns],
) -> tuple[Mapped, Words, Columns, Ints]:
    """Walk until two walks agree; what they agree on, the frames with their facts, pages lost.

    ``facts``: of the frames ``pfns``, read after ``mapped``; ``look`` reads them for other frames.
    Pages on which the last two walks do not agree are lost: i64 per VMA, and counted in
    ``unknown_pages``.
    """
    for number in range(2, _WALKS + 1):
        latest = walk()
        same = _same(mapped, latest)
        fresh = distinct(latest.pfn[~same])
        steady = distinct(latest.pfn[same])
        if number == _WALKS or np.count_nonzero(~same) * _ENOUGH <= len(same):
            break
        again = np.setdiff1d(fresh, steady, assume_unique=True)
        if len(again):
            pfns, facts = _merge(pfns, facts, again, look(again))
        mapped = latest
    lost = np.bincount(latest.vma_id[~same], minlength=len(latest.counts["unknown_pages"]))
    latest.counts["unknown_pages"] += lost.astype(np.uint64)
    return latest.keep(same), pfns, facts, lost


def _same(before: Mapped, after: Mapped) -> npt.NDArray[np.bool_]:
    """Which rows of ``after`` map the same frame in ``before``."""
    row, same = find(before.key, after.key)
    same[same] = before.pfn[row] == after.pfn[same]
    return same


def _merge(pfns: Words, facts: Columns, more: Words, found: Columns) -> tuple[Words, Columns]:
    """Put the rows of the frames ``more`` into the ascending ``pfns``, instead of older ones."""
    older = ~np.isin(pfns, more, assume_unique=True)
    merged = np.concatenate([pfns[older], more])
    order = np.argsort(merged)
    columns = {n: np.concatenate([facts[n][older], found[n]])[order] for n in facts}
    return merged[order], columns

"""Memory that changes while it is read: what is said of it held when it was looked at twice.

Page tables and frames are freed and used again under the reader. So the page tables are walked
again after the frames were hashed, and a page counts where both walks found the same frame. What
is new in the later walk is hashed too, and the tables are walked once more, a few times at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from estimator.arrays import Columns, Ints, Mask, Words
from estimator.collect.mappings import Mapped, distinct_of, same_frames
from estimator.collect.tables import Table
from estimator.packed import Packed, add, like, used_up

_WALKS = 5
_ENOUGH = 1000  # end when less than one page in so many has changed since the last walk


def settle(
    mapped: Mapped,
    pfns: Packed,
    facts: Table,
    walk: Callable[[], Mapped],
    look: Callable[[Packed], Table],
) -> tuple[Mapped, Packed, Table, Ints]:
    """Walk until two walks agree; what they agree on, the frames with their facts, pages lost.

    ``facts``: of the frames ``pfns``, read after ``mapped``; ``look`` reads them for other frames.
    Pages on which the last two walks do not agree are lost: i64 per VMA, and counted in
    ``unknown_pages``. What is given is used up.
    """
    for number in range(2, _WALKS + 1):
        latest = walk()
        same = Packed(np.bool_)
        for mask in _same(mapped, latest):
            same.append(mask)
        if number == _WALKS or _count_moved(same) * _ENOUGH <= len(same):
            break
        steady, moved = (_distinct(latest, same, which) for which in (True, False))
        fresh = _without(moved, steady)
        if len(fresh):
            pfns, facts = _merge(pfns, facts, fresh, look(fresh))
        mapped = latest
    lost = np.zeros(len(latest.counts["unknown_pages"]), np.int64)
    for rows, mask in zip(latest.pieces(), same.pieces(), strict=True):
        lost += np.bincount(rows.vma_id[~mask], minlength=len(lost))
    latest.counts["unknown_pages"] += lost.astype(np.uint64)
    return latest.keep(same.drained()), pfns, facts, lost


def _same(before: Mapped, after: Mapped) -> Iterator[Mask]:
    """Which rows of ``after``, by piece, map the same frame in ``before``, which is used up."""
    earlier = ((before.key(rows), rows.pfn) for rows in before.used_up())
    return same_frames(earlier, ((after.key(rows), rows.pfn) for rows in after.pieces()))


def _distinct(mapped: Mapped, same: Packed, which: bool) -> Packed:
    """The distinct PFNs of the rows that are the ``same``, or are not."""
    masks = zip(mapped.pfn.pieces(), same.pieces(), strict=True)
    return distinct_of(mapped.pfn, (pfn[mask == which] for pfn, mask in masks))


def _count_moved(same: Packed) -> int:
    return sum(len(mask) - int(np.count_nonzero(mask)) for mask in same.pieces())


def _without(pfns: Packed, others: Packed) -> Packed:
    """Those of ``pfns`` that are not among ``others``."""
    return Packed.of(np.setdiff1d(pfns[:], others[:], assume_unique=True))


def _merge(pfns: Packed, facts: Table, more: Packed, found: Table) -> tuple[Packed, Table]:
    """Put the rows of the frames ``more`` into the ascending ``pfns``, instead of older ones."""
    there, at = {"pfn": pfns, **facts}, 0
    merged = like(there)
    new_pfn = more[:]

    def new(begin: int, end: int) -> Columns:
        return {"pfn": new_pfn[begin:end]} | {n: c[begin:end] for n, c in found.items()}

    for piece in used_up(there):
        end = int(np.searchsorted(new_pfn, piece["pfn"][-1], side="right"))
        _add_in_order(merged, piece, new(at, end))
        at = end
    add(merged, new(at, len(new_pfn)))
    return merged.pop("pfn"), merged


def _add_in_order(merged: Table, older: Columns, newer: Columns) -> None:
    """Append the rows of both by PFN; of one that both have, the newer."""
    kept: Mask = ~np.isin(older["pfn"], newer["pfn"], assume_unique=True)
    both = {name: np.concatenate([older[name][kept], newer[name]]) for name in merged}
    pfn: Words = both["pfn"]
    order = np.argsort(pfn)
    add(merged, {name: values[order] for name, values in both.items()})

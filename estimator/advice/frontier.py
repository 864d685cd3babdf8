"""Saved memory against pages scanned: which pieces of the system to opt in, best first.

The value of opting in A depends on B: of two services with the same data neither saves anything
alone. So nothing is added one by one. All pieces start opted in and the one whose leaving costs
the least saving per page scanned leaves, again and again (peeling, as for a densest subgraph);
read backwards, that is the order in which to opt in. Each step uses the exact loss at that moment.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from estimator.advice.patterns import Patterns
from estimator.arrays import Ints


def _spans(sorted_keys: Ints, count: int) -> tuple[Ints, Ints]:
    """First index and number of each key 0..count-1 in ``sorted_keys``."""
    length = np.bincount(sorted_keys, minlength=count)
    return np.cumsum(length) - length, length


def _expand(first: Ints, length: Ints) -> Ints:
    """The indices first, first+1, ... of all spans, one span after the other."""
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    indices: Ints = np.arange(total) + np.repeat(first - (ends - length), length)
    return indices


class Peeling:
    """The pieces still opted in, and what each one's leaving would cost.

    ``saved_pages``: frames saved by those still in. ``loss_pages``: i64 per piece, how many fewer
    it would be without that piece. A frame mapped by several pieces is freed only while all of
    them are in.

    Exact with all pieces in, and for any of them where no frame is mapped by several. Otherwise
    some frames more may become free: of the first two frames of a content ksmd keeps the second,
    for those who are in, and that costs nothing if others keep it anyway. What is known of pins,
    huge pages and contents of several stable nodes is what all pieces together make of them.
    """

    def __init__(self, found: Patterns, pieces: int) -> None:
        self._found = found
        patterns = len(found.contents)
        self._weight = found.contents[found.pattern] * found.frames
        by_piece = np.argsort(found.row_piece, kind="stable")
        self._groups_of_piece = found.row_group[by_piece]
        self._piece_spans = _spans(found.row_piece[by_piece], pieces)
        self._group_spans = _spans(found.row_group, len(found.pattern))

        pattern_of_row = found.pattern[found.row_group]
        holders, self._holder_of_row = np.unique(
            pattern_of_row * pieces + found.row_piece, return_inverse=True
        )
        self._holder_pattern, self._holder_piece = holders // pieces, holders % pieces
        self._pattern_spans = _spans(self._holder_pattern, patterns)

        self._alive = np.ones(len(found.pattern), np.bool_)
        self._groups_left = np.bincount(found.pattern, minlength=patterns)
        self._groups_held = np.bincount(self._holder_of_row, minlength=len(holders))
        self._holds_all = np.zeros(len(holders), np.bool_)
        self.loss_pages: Ints = np.zeros(pieces, np.int64)
        np.add.at(self.loss_pages, found.row_piece, self._weight[found.row_group])
        self._update_holders(np.arange(len(holders)))
        one_kept = int(found.contents[~found.free].sum())
        self.saved_pages = int(self._weight.sum()) - one_kept

    def remove(self, piece: int) -> None:
        """Let ``piece`` leave."""
        self.saved_pages -= int(self.loss_pages[piece])
        first, length = self._piece_spans
        groups = self._groups_of_piece[first[piece] : first[piece] + length[piece]]
        groups = groups[self._alive[groups]]
        self._alive[groups] = False
        first, length = self._group_spans
        rows = _expand(first[groups], length[groups])
        found = self._found
        np.subtract.at(self.loss_pages, found.row_piece[rows], self._weight[found.row_group[rows]])
        np.subtract.at(self._groups_held, self._holder_of_row[rows], 1)
        np.subtract.at(self._groups_left, found.pattern[groups], 1)
        first, length = self._pattern_spans
        touched = np.unique(found.pattern[groups])
        self._update_holders(_expand(first[touched], length[touched]))

    def _update_holders(self, holders: Ints) -> None:
        """Whoever holds all that is left of a content loses one frame less: the one that stays."""
        pattern = self._holder_pattern[holders]
        left = self._groups_left[pattern]
        now = (self._groups_held[holders] == left) & (left > 0) & ~self._found.free[pattern]
        change = now.astype(np.int64) - self._holds_all[holders]
        np.subtract.at(
            self.loss_pages, self._holder_piece[holders], change * self._found.contents[pattern]
        )
        self._holds_all[holders] = now


def frontier(found: Patterns, scanned_pages: Ints) -> pd.DataFrame:
    """The order in which to opt pieces in, best first.

    ``scanned_pages``: i64 per piece, pages that ksmd visits for it. Columns: piece, scanned_pages
    and saved_pages of this piece and all before it, and gain_pages (what this step adds).
    """
    pieces = len(scanned_pages)
    peeling = Peeling(found, pieces)
    cost = np.maximum(scanned_pages, 1).astype(np.float64)
    inside = np.ones(pieces, np.bool_)
    steps = []
    scanned = int(scanned_pages.sum())
    for _ in range(pieces):
        ratio = np.where(inside, peeling.loss_pages / cost, np.inf)
        ties = np.flatnonzero(ratio == ratio.min())
        piece = int(ties[np.argmax(cost[ties])])
        steps.append((piece, scanned, peeling.saved_pages, int(peeling.loss_pages[piece])))
        inside[piece] = False
        peeling.remove(piece)
        scanned -= int(scanned_pages[piece])
    columns = ["piece", "scanned_pages", "saved_pages", "gain_pages"]
    return pd.DataFrame(steps[::-1], columns=columns, dtype=np.int64)

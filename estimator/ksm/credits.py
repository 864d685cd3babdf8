"""The frames that become free, and who is credited with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from estimator.arrays import (
    Empty,
    Ints,
    Mask,
    Narrow,
    Numbers,
    Rows,
    Where,
    at,
    made,
    narrow,
    pieces,
)


@dataclass(frozen=True)
class Freed:
    """The frames that become free, before anybody is credited with them (``credits_of``).

    ``frame_of_row``: u32 per row of ``mappings``, and ``content``: i32 per frame, of the frames as
    the model starts with them (after unmerging where that comes first, see ``unmerge.py``).
    ``mapcount``: per frame, all its mappings. ``gone``: bool per frame, it becomes free.
    ``copied``: i64 rows, each takes a frame for a copy made by break_cow(). ``folio``: i32 per
    frame, number of its large folio, else -1. ``unmapped``: i64 per large folio, pieces that
    nobody maps and that its split frees. ``split``: bool per large folio, ksmd splits it.
    """

    frame_of_row: npt.NDArray[np.uint32]
    content: npt.NDArray[np.int32]
    mapcount: Narrow
    gone: npt.NDArray[np.bool_]
    copied: npt.NDArray[np.int64]
    folio: npt.NDArray[np.int32]
    unmapped: npt.NDArray[np.int64]
    split: npt.NDArray[np.bool_]

    @property
    def frames(self) -> int:
        """How many more frames are free at rest; less than 0 if copies take more."""
        return int(np.count_nonzero(self.gone)) - len(self.copied) + int(self.unmapped.sum())


@dataclass(frozen=True)
class Credits:
    """Who is credited with the frames that become free.

    Per frame, as the model starts with them: ``converted``: unsigned, how many of its mappings take
    part in a merge or go to the zero page. ``given_up``: bool, all its mappings, system-wide, do:
    it is freed, or ``stays`` as a KSM page. ``stable_node``: i32, the frame that its merged
    mappings map in the end, -1 for none. ``ends``: as narrow, how many frames that are given up end
    on it.

    ``of_folio``: i64 per large folio, frames that its split frees and that no mapping gives up,
    credited to the mappings of the folio that ksmd scans, in equal parts.
    ``of_row[rows]``: f64 per row of ``mappings``, all that it is credited with; a copy made by
    break_cow() is a credit of -1. The sum of all is ``physical["frames_freed"]``. ``converts``,
    ``scanned``: see ``credits_of``.
    """

    converted: Narrow
    given_up: Mask
    stable_node: Numbers
    ends: Narrow
    of_folio: Ints
    freed: Freed = field(repr=False)
    converts: Where = field(repr=False)
    scanned: Where = field(repr=False)

    def stays(self, frames: Rows) -> Mask:
        """Which of ``frames`` stay as KSM pages, though all their mappings are merged."""
        stays: Mask = at(self.given_up, frames) & ~at(self.freed.gone, frames)
        return stays

    def of_frame(self, frames: Rows) -> npt.NDArray[np.float64]:
        """What each of ``frames`` is credited with (f64): where ``d`` end as one, (d - 1) / d."""
        given_up, end = at(self.given_up, frames), at(self.stable_node, frames)
        credit = given_up.astype(np.float64)
        onto = np.flatnonzero(given_up & (end >= 0))
        end = end.take(onto)
        credit[onto] -= self.stays(end) / np.maximum(self.ends.take(end), 1)
        return credit

    def end_of(self, frames: Numbers) -> Numbers:
        """On which frame each of ``frames`` ends, with others or as the one that stays; else -1."""
        onto = np.where(self.given_up.take(frames), self.stable_node.take(frames), np.int32(-1))
        return np.where(self.ends.take(frames) > 0, frames, onto)

    @property
    def of_row(self) -> CreditOfRow:
        """Checked, that it adds up, when first asked for."""
        return CreditOfRow(self, self._of_folio_each, np.sort(self.freed.copied))

    @cached_property
    def _of_folio_each(self) -> npt.NDArray[np.float64]:
        """See ``CreditOfRow.of_folio``; AssertionError where the credits don't add up."""
        freed = self.freed
        total = -float(len(freed.copied))
        for piece in pieces(len(self.converted)):
            total += float(self.of_frame(piece)[self.converted[piece] > 0].sum())
        each = np.zeros(0)
        if (folios := self.of_folio > 0).any():
            sharers = np.zeros(len(folios), np.int64)
            for _, folio in folio_rows(freed, self.scanned, folios):
                np.add.at(sharers, folio, 1)
            each = self.of_folio / np.maximum(sharers, 1)
            total += float((each * sharers).sum())
        if not math.isclose(total, freed.frames, rel_tol=1e-9, abs_tol=1e-6):
            raise AssertionError(f"credits of {total} frames for {freed.frames} freed ones")
        return each


@dataclass(frozen=True)
class CreditOfRow:
    """What rows of ``mappings`` are credited with, worked out for those that are asked for.

    ``of_folio``: f64 per large folio, each of its mappings that is scanned; ``copied``: i64 rows,
    ascending.
    """

    credits: Credits
    of_folio: npt.NDArray[np.float64]
    copied: Ints

    def __len__(self) -> int:
        return len(self.credits.freed.frame_of_row)

    def __getitem__(self, rows: slice | Ints | Numbers) -> npt.NDArray[np.float64]:
        found, freed = self.credits, self.credits.freed
        frame = at(freed.frame_of_row, rows)
        credit = np.zeros(len(frame))
        converts = np.flatnonzero(found.converts(rows))
        leaving = frame.take(converts)
        credit[converts] = found.of_frame(leaving) / np.maximum(found.converted.take(leaving), 1)
        if len(self.copied):
            number = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
            before, through = (np.searchsorted(self.copied, number, s) for s in ("left", "right"))
            credit -= through - before
        if len(self.of_folio):
            of_folio = np.append(self.of_folio, 0.0).take(freed.folio[frame])
            credit += np.where(found.scanned(rows), of_folio, 0.0)
        return credit


def credits_of(
    freed: Freed, stable_node: Numbers, converts: Where, scanned: Where, empty: Empty
) -> Credits:
    """Credit every freed frame to the mappings that gave it up, as PSS splits a shared page.

    Of ``d`` frames that end as one, each is credited ``(d - 1) / d``. A frame of which one mapping
    stays, in a process that does not take part or a VMA that can't, is not freed (ksm-model §12).
    The split of a huge page takes a zero-filled piece away from all who map it.

    ``stable_node``: per row of ``mappings``, as in ``Prediction``. Of rows, ``converts``: they stop
    mapping the frame they map now; ``scanned``: ksmd scans them. ``empty``: makes the arrays of
    ``Credits``.
    """
    frame_of_row, frame_count = freed.frame_of_row, len(freed.gone)
    leave, node, ends = (empty(frame_count, np.int32) for _ in range(3))
    leave[:], node[:], ends[:] = 0, -1, 0
    for piece in pieces(len(frame_of_row)):
        frame, to = frame_of_row[piece], stable_node[piece]
        np.add.at(leave, frame.take(np.flatnonzero(converts(piece))), np.int32(1))
        merged = np.flatnonzero(to >= 0)
        node[frame.take(merged)] = to.take(merged)

    given_up = empty(frame_count, np.bool_)
    of_folio = freed.unmapped.copy()
    for piece in pieces(frame_count):
        gone, all_leave = freed.gone[piece], leave[piece] >= freed.mapcount[piece]
        stays = (node[piece] == _numbers(piece)) & all_leave & ~gone
        given_up[piece] = (gone & (leave[piece] > 0)) | stays
        end = node[piece].take(np.flatnonzero(given_up[piece]))
        np.add.at(ends, end[end >= 0], np.int32(1))
        by_split = np.flatnonzero(gone & (leave[piece] == 0))
        np.add.at(of_folio, freed.folio[piece][by_split], 1)
    leave, ends = (narrow(numbers, empty) for numbers in (leave, ends))
    return Credits(leave, given_up, node, ends, of_folio, freed, converts, scanned)


def ends_of(given_up: Mask, node: Numbers, empty: Empty) -> Numbers:
    """The stable node on which a frame that is given up ends, i32 per frame; else -1."""
    return made(
        len(node),
        np.int32,
        lambda piece: np.where(given_up[piece], node[piece], np.int32(-1)),
        empty,
    )


def folio_rows(freed: Freed, scanned: Where, folios: Mask) -> Iterator[tuple[Ints, Ints]]:
    """The mappings of ``folios`` (bool per large folio) that ksmd scans: rows, and their folio.

    Piece by piece.
    """
    chosen = np.append(folios, False)
    for piece in pieces(len(freed.frame_of_row)):
        folio = freed.folio[freed.frame_of_row[piece]]
        rows = np.flatnonzero(scanned(piece) & chosen[folio])
        yield rows + piece.start, folio[rows].astype(np.int64)


def _numbers(piece: slice) -> Numbers:
    return np.arange(piece.start, piece.stop, dtype=np.int32)

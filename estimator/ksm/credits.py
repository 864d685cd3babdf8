"""The frames that become free, and who is credited with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from estimator.arrays import Empty, Ints, Mask, Numbers, count, made, pieces


@dataclass(frozen=True)
class Freed:
    """The frames that become free, before anybody is credited with them (``credits_of``).

    ``frame_of_row``: u32 per row of ``mappings``, and ``content``: i32 per frame, of the frames as
    the model starts with them (after unmerging where that comes first, see ``unmerge.py``).
    ``mapcount``: i32 per frame, all its mappings. ``gone``: bool per frame, it becomes free.
    ``copied``: i64 rows, each takes a frame for a copy made by break_cow(). ``folio``: i32 per
    frame, number of its large folio, else -1. ``unmapped``: i64 per large folio, pieces that
    nobody maps and that its split frees. ``split``: bool per large folio, ksmd splits it.
    """

    frame_of_row: npt.NDArray[np.uint32]
    content: npt.NDArray[np.int32]
    mapcount: npt.NDArray[np.int32]
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

    Per frame, as the model starts with them: ``converted``: i32, how many of its mappings take part
    in a merge or go to the zero page. ``given_up``: bool, all its mappings, system-wide, do: it is
    freed, or ``stays`` (bool) as a KSM page. ``stable_node``: i32, the frame that its merged
    mappings map in the end, -1 for none.

    ``of_folio``: i64 per large folio, frames that its split frees and that no mapping gives up,
    credited to the mappings of the folio that ksmd scans, in equal parts.
    ``of_row[rows]``: f64 per row of ``mappings``, all that it is credited with; a copy made by
    break_cow() is a credit of -1. The sum of all is ``physical["frames_freed"]``. ``converts``,
    ``scanned``: bool per row, see ``credits_of``.
    """

    converted: Numbers
    given_up: Mask
    stays: Mask
    stable_node: Numbers
    of_folio: Ints
    freed: Freed = field(repr=False)
    converts: Mask = field(repr=False)
    scanned: Mask = field(repr=False)
    empty: Empty = field(repr=False)

    @cached_property
    def of_row(self) -> CreditOfRow:
        """Worked out when first asked for."""
        freed, leave = self.freed, self.converted
        of_frame = frame_credits(self.given_up, self.stable_node, self.stays, self.empty)
        total = -float(len(freed.copied))
        for piece in pieces(len(of_frame)):
            total += float(of_frame[piece][leave[piece] > 0].sum())
            of_frame[piece] /= np.maximum(leave[piece], 1)
        each = np.zeros(0)
        if (folios := self.of_folio > 0).any():
            sharers = np.zeros(len(folios), np.int64)
            for _, folio in folio_rows(freed, self.scanned, folios):
                np.add.at(sharers, folio, 1)
            each = self.of_folio / np.maximum(sharers, 1)
            total += float((each * sharers).sum())
        if not math.isclose(total, freed.frames, rel_tol=1e-9, abs_tol=1e-6):
            raise AssertionError(f"credits of {total} frames for {freed.frames} freed ones")
        copied = np.sort(freed.copied)
        return CreditOfRow(freed, self.converts, self.scanned, of_frame, each, copied)


@dataclass(frozen=True)
class CreditOfRow:
    """What rows of ``mappings`` are credited with, worked out for those that are asked for.

    ``converts``, ``scanned``: bool per row. ``of_frame``: f64 per frame, each of its mappings that
    convert; ``of_folio``: f64 per large folio, each of its mappings that is scanned; ``copied``:
    i64 rows, ascending.
    """

    freed: Freed
    converts: Mask
    scanned: Mask
    of_frame: npt.NDArray[np.float64]
    of_folio: npt.NDArray[np.float64]
    copied: Ints

    def __len__(self) -> int:
        return len(self.converts)

    def __getitem__(self, rows: slice | Ints | Numbers) -> npt.NDArray[np.float64]:
        frame = self.freed.frame_of_row[rows]
        credit = np.where(self.converts[rows], self.of_frame.take(frame), 0.0)
        if len(self.copied):
            number = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
            before, through = (np.searchsorted(self.copied, number, s) for s in ("left", "right"))
            credit -= through - before
        if len(self.of_folio):
            of_folio = np.append(self.of_folio, 0.0).take(self.freed.folio[frame])
            credit += np.where(self.scanned[rows], of_folio, 0.0)
        return credit


def credits_of(
    freed: Freed, stable_node: Numbers, converted: Mask, scanned: Mask, empty: Empty
) -> Credits:
    """Credit every freed frame to the mappings that gave it up, as PSS splits a shared page.

    Of ``d`` frames that end as one, each is credited ``(d - 1) / d``. A frame of which one mapping
    stays, in a process that does not take part or a VMA that can't, is not freed (ksm-model §12).
    The split of a huge page takes a zero-filled piece away from all who map it.

    Per row of ``mappings``: ``stable_node`` as in ``Prediction``; ``converted``: it stops mapping
    the frame it maps now; ``scanned``: ksmd scans it. ``empty``: makes the arrays of ``Credits``.
    """
    frame_of_row, frame_count = freed.frame_of_row, len(freed.gone)
    leave, node = (empty(frame_count, np.int32) for _ in range(2))
    leave[:], node[:] = 0, -1
    for piece in pieces(len(frame_of_row)):
        np.add.at(leave, frame_of_row[piece][converted[piece]], np.int32(1))
        merged = stable_node[piece] >= 0
        node[frame_of_row[piece][merged]] = stable_node[piece][merged]

    stays, given_up = (empty(frame_count, np.bool_) for _ in range(2))
    of_folio = freed.unmapped.copy()
    for piece in pieces(frame_count):
        gone, all_leave = freed.gone[piece], leave[piece] >= freed.mapcount[piece]
        stays[piece] = (node[piece] == _numbers(piece)) & all_leave & ~gone
        given_up[piece] = (gone & (leave[piece] > 0)) | stays[piece]
        np.add.at(of_folio, freed.folio[piece][gone & (leave[piece] == 0)], 1)
    return Credits(leave, given_up, stays, node, of_folio, freed, converted, scanned, empty)


def frame_credits(
    given_up: Mask, node: Numbers, stays: Mask, empty: Empty = np.empty
) -> npt.NDArray[np.float64]:
    """What each frame is credited with (f64 per frame), see ``Credits``: of ``d``, (d - 1) / d."""
    frames = count(ends_of(given_up, node, empty), len(node), empty=empty, ignore=-1)

    def credits_in(piece: slice) -> npt.NDArray[np.float64]:
        of_frame, end = given_up[piece].astype(np.float64), node[piece]
        onto = given_up[piece] & (end >= 0)
        end = end[onto]
        of_frame[onto] -= stays[end] / np.maximum(frames[end], 1)
        return of_frame

    return made(len(node), np.float64, credits_in, empty)


def ends_of(given_up: Mask, node: Numbers, empty: Empty) -> Numbers:
    """The stable node on which a frame that is given up ends, i32 per frame; else -1."""
    return made(
        len(node),
        np.int32,
        lambda piece: np.where(given_up[piece], node[piece], np.int32(-1)),
        empty,
    )


def folio_rows(freed: Freed, scanned: Mask, folios: Mask) -> Iterator[tuple[Ints, Ints]]:
    """The mappings of ``folios`` (bool per large folio) that ksmd scans: rows, and their folio.

    Piece by piece.
    """
    chosen = np.append(folios, False)
    for piece in pieces(len(freed.frame_of_row)):
        folio = freed.folio[freed.frame_of_row[piece]]
        rows = np.flatnonzero(scanned[piece] & chosen[folio])
        yield rows + piece.start, folio[rows].astype(np.int64)


def _numbers(piece: slice) -> Numbers:
    return np.arange(piece.start, piece.stop, dtype=np.int32)

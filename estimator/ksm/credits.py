"""The frames that become free, and who is credited with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, Numbers, count, pieces, take


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
    ``of_row``: f64 per row of ``mappings``, all that it is credited with; a copy made by
    break_cow() is a credit of -1. Its sum is ``physical["frames_freed"]``.
    """

    converted: Numbers
    given_up: Mask
    stays: Mask
    stable_node: Numbers
    of_folio: Ints
    of_row: npt.NDArray[np.float64]


def credits_of(freed: Freed, stable_node: Numbers, converted: Mask, scanned: Mask) -> Credits:
    """Credit every freed frame to the mappings that gave it up, as PSS splits a shared page.

    Of ``d`` frames that end as one, each is credited ``(d - 1) / d``. A frame of which one mapping
    stays, in a process that does not take part or a VMA that can't, is not freed (ksm-model §12).
    The split of a huge page takes a zero-filled piece away from all who map it.

    Per row of ``mappings``: ``stable_node`` as in ``Prediction``; ``converted``: it stops mapping
    the frame it maps now; ``scanned``: ksmd scans it.
    """
    frame_of_row, frame_count = freed.frame_of_row, len(freed.gone)
    leave = np.zeros(frame_count, np.int32)
    node = np.full(frame_count, -1, np.int32)
    for piece in pieces(len(frame_of_row)):
        np.add.at(leave, frame_of_row[piece][converted[piece]], np.int32(1))
        merged = stable_node[piece] >= 0
        node[frame_of_row[piece][merged]] = stable_node[piece][merged]

    stays = (
        (node == np.arange(frame_count, dtype=np.int32)) & (leave >= freed.mapcount) & ~freed.gone
    )
    given_up = (freed.gone & (leave > 0)) | stays
    of_frame = frame_credits(given_up, node, stays)
    of_frame /= np.maximum(leave, 1)
    of_row = take(of_frame, frame_of_row)
    of_row[~converted] = 0.0
    del of_frame
    np.subtract.at(of_row, freed.copied, 1.0)
    of_folio = freed.unmapped.copy()
    np.add.at(of_folio, freed.folio[freed.gone & (leave == 0)], 1)
    if of_folio.any():
        rows, folio = folio_rows(freed, scanned, of_folio > 0)
        sharers = np.bincount(folio, minlength=len(of_folio))
        of_row[rows] += (of_folio / np.maximum(sharers, 1))[folio]
    if not math.isclose(float(of_row.sum()), freed.frames, rel_tol=1e-9, abs_tol=1e-6):
        raise AssertionError(f"credits of {of_row.sum()} frames for {freed.frames} freed ones")
    return Credits(leave, given_up, stays, node, of_folio, of_row)


def frame_credits(given_up: Mask, node: Numbers, stays: Mask) -> npt.NDArray[np.float64]:
    """What each frame is credited with (f64 per frame), see ``Credits``: of ``d``, (d - 1) / d."""
    of_frame = given_up.astype(np.float64)
    onto_node = given_up & (node >= 0)
    frames = count(node[onto_node], len(given_up))
    for piece in pieces(len(node)):
        onto = onto_node[piece]
        end = node[piece][onto]
        of_frame[piece][onto] -= stays[end] / np.maximum(frames[end], 1)
    return of_frame


def folio_rows(freed: Freed, scanned: Mask, folios: Mask) -> tuple[Ints, Ints]:
    """The mappings of ``folios`` (bool per large folio) that ksmd scans: rows, and their folio."""
    of_frame = np.append(folios, False)[freed.folio]
    rows = np.flatnonzero(scanned & of_frame[freed.frame_of_row])
    return rows, freed.folio[freed.frame_of_row[rows]].astype(np.int64)

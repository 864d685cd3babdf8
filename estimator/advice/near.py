"""Pages that are nearly equal: what would be equal without a few words (``collect --near``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.attribution import page_bytes, scanned_frames
from estimator.arrays import Empty, Mask, Words, made, pieces
from estimator.ksm.content_parts import rows_by_number
from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.names import vma_labels
from estimator.snapshot.snapshot import Snapshot

KINDS = {"near_hash": "ends_bytes", "no_address_hash": "address_bytes"}
"""Columns of ``frames``, and what is said of them."""
_DIGITS = 3  # of sums of fractions


def nearly_equal(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame | None:
    """By VMA label and program what more would be equal, most first; None: not collected.

    Columns: label, comm, ends_bytes (equal without the first and last 64 bytes of the page),
    address_bytes (equal with the addresses of the own process as zeroes). Of what ksmd visits and
    is known each content counts once: what is equal as it is, is no near miss. Of k contents that
    are nearly equal k - 1 would be saved, credited to all in equal parts. An address of one process
    may be none in another one, so a content goes by its first frame; the true number may be more.
    """
    if not set(KINDS) <= set(snapshot.frames):
        return None
    vmas, empty = snapshot.vmas, prediction.empty
    comm = snapshot.processes["comm"].to_numpy()[vmas["mm_id"].to_numpy()]
    of_vma = pd.DataFrame({"label": vma_labels(vmas), "comm": comm})
    group_of_vma, names = (
        of_vma.groupby(list(of_vma), sort=False).ngroup(),
        of_vma.drop_duplicates(),
    )
    contents, vma_of_frame = _first_frames(snapshot, prediction), _first_vmas(snapshot, prediction)
    sums = names.reset_index(drop=True)
    for column, kind in KINDS.items():
        near, saved = _words(snapshot, column, empty), np.zeros(len(names))
        for part in rows_by_number(near, empty):
            frames = part[contents[part]]
            _, place, alike = np.unique(near[frames], return_inverse=True, return_counts=True)
            group = group_of_vma.to_numpy()[vma_of_frame[frames]]
            np.add.at(saved, group, (1 - 1 / alike[place]) * page_bytes(snapshot))
        sums[kind] = saved
    sums = sums[(sums[list(KINDS.values())] > 0).any(axis=1)]
    most = sums[list(KINDS.values())].max(axis=1).round(_DIGITS)
    order = most.sort_values(ascending=False, kind="stable").index
    return sums.loc[order].round(_DIGITS).reset_index(drop=True)


def _first_frames(snapshot: Snapshot, prediction: Prediction) -> Mask:
    """Bool per frame: the first one of its content that ksmd visits."""
    scanned, empty = scanned_frames(snapshot, prediction), prediction.empty
    whole, chosen = _words(snapshot, "hash", empty), empty(len(scanned), np.bool_)
    chosen[:] = False
    for part in rows_by_number(whole, empty):
        frames = part[scanned[part]]
        _, one = np.unique(whole[frames], return_index=True)
        chosen[frames[one]] = True
    return chosen


def _first_vmas(snapshot: Snapshot, prediction: Prediction) -> npt.NDArray[np.uint32]:
    """u32 per frame: the VMA of its first mapping that ksmd visits; anything where none is."""
    frame, vma = (snapshot.mappings[name].to_numpy() for name in ("frame_id", "vma_id"))
    found = prediction.empty(len(snapshot.frames), np.uint32)
    for piece in reversed(list(pieces(len(frame)))):
        rows = np.flatnonzero(prediction.outcome[piece] > Outcome.UNKNOWN)[::-1]
        found[frame[piece][rows]] = vma[piece][rows]
    return found


def _words(snapshot: Snapshot, column: str, empty: Empty) -> Words:
    words = snapshot.frames[column]
    return made(
        len(words),
        np.uint64,
        lambda piece: words.iloc[piece].to_numpy(np.uint64, na_value=0),
        empty,
    )

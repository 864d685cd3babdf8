"""What copies are made of: zero-filled pages, one frame by fork, bytes that are really equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.advice.attribution import page_bytes, scanned_frames
from estimator.arrays import distinct, pieces
from estimator.ksm.frames import frames_with
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces


@dataclass(frozen=True)
class Copies:
    """The mappings that ksmd visits and that are known, in bytes; each once.

    ``mapped``: all. Who counts equal pages without a look at frames takes the other three together
    for copies: ``zero``, zero-filled, but one; ``fork``, a frame that is mapped once more already;
    ``real``, equal bytes in a frame of their own.
    """

    mapped: int
    zero: int
    fork: int
    real: int


def copies(snapshot: Snapshot, prediction: Prediction) -> Copies:
    """Count the copies among what ksmd visits."""
    size = page_bytes(snapshot)
    zero = frames_with(snapshot.frames, FrameFlag.ZERO)
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    mapped = zeroes = 0
    for piece in pieces(len(frame_of_row)):
        frame = frame_of_row[piece][prediction.is_scanned(piece)]
        mapped += len(frame)
        zeroes += int(np.count_nonzero(zero[frame]))
    scanned = scanned_frames(snapshot, prediction)
    words, frames = prediction.empty(len(zero), np.uint64), 0
    for piece, some in in_pieces(snapshot.frames, ("hash",)):
        data = scanned[piece] & ~zero[piece]
        here = some["hash"].to_numpy(np.uint64, na_value=0)[data]
        words[frames : frames + len(here)] = here
        frames += len(here)
    contents = distinct(words[:frames])
    return Copies(
        mapped=mapped * size,
        zero=max(zeroes - 1, 0) * size,
        fork=(mapped - zeroes - frames) * size,
        real=(frames - contents) * size,
    )

"""What copies are made of: zero-filled pages, one frame by fork, bytes that are really equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.advice.attribution import page_bytes, scanned_frames
from estimator.arrays import take
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot


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
    scanned = prediction.scanned
    mapped = int(np.count_nonzero(scanned))
    zero = (snapshot.frames["flags"].to_numpy() & FrameFlag.ZERO) != 0
    zeroes = int(np.count_nonzero(take(zero, snapshot.mappings["frame_id"].to_numpy()) & scanned))
    data = scanned_frames(snapshot, prediction) & ~zero
    frames = int(np.count_nonzero(data))
    contents = np.unique(snapshot.frames["hash"].to_numpy(np.uint64, na_value=0)[data])
    return Copies(
        mapped=mapped * size,
        zero=max(zeroes - 1, 0) * size,
        fork=(mapped - zeroes - frames) * size,
        real=(frames - len(contents)) * size,
    )

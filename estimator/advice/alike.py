"""What else could be done with equal pages, and how near to equal the others are."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from estimator.advice.copies import Copies, copies
from estimator.advice.near import nearly_equal
from estimator.advice.page_sizes import page_sizes
from estimator.advice.preload import Preload, preload
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Alike:
    """``page_sizes``, ``near``: see ``page_sizes`` and ``nearly_equal``.

    ``page_bytes``: of the kernel, in bytes. ``has_pieces``: smaller sizes are in ``page_sizes``.
    """

    page_bytes: int
    copies: Copies
    page_sizes: pd.DataFrame
    has_pieces: bool
    near: pd.DataFrame | None
    preload: Preload


def alike(snapshot: Snapshot, prediction: Prediction) -> Alike:
    """All of it, of what ``prediction`` has ksmd visit."""
    size = int(snapshot.info["kernel"]["page_size"])
    sizes = page_sizes(snapshot, prediction)
    return Alike(
        page_bytes=size,
        copies=copies(snapshot, prediction),
        page_sizes=sizes,
        has_pieces="piece_hash_0" in snapshot.frames,
        near=nearly_equal(snapshot, prediction),
        preload=preload(snapshot, prediction),
    )

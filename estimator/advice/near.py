"""Pages that are nearly equal: what would be equal without a few words (``collect --near``)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.ksm.prediction import Prediction
from estimator.snapshot.names import vma_labels
from estimator.snapshot.snapshot import Snapshot

KINDS = {"near_hash": "ends_bytes", "no_address_hash": "address_bytes"}
"""Columns of ``frames``, and what is said of them."""


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
    rows = np.flatnonzero(prediction.scanned)
    frame, row = np.unique(snapshot.mappings["frame_id"].to_numpy()[rows], return_index=True)
    whole = snapshot.frames["hash"].to_numpy(np.uint64, na_value=0)[frame]
    _, one = np.unique(whole, return_index=True)
    frame, vma = frame[one], snapshot.mappings["vma_id"].to_numpy()[rows[row[one]]]
    comm = snapshot.processes["comm"].to_numpy()[snapshot.vmas["mm_id"].to_numpy()[vma]]
    table = pd.DataFrame({"label": vma_labels(snapshot.vmas)[vma], "comm": comm})
    for column, kind in KINDS.items():
        near = pd.Series(snapshot.frames[column].to_numpy(np.uint64, na_value=0)[frame])
        contents = near.groupby(near).transform("size")
        table[kind] = (1 - 1 / contents) * page_bytes(snapshot)
    sums = table.groupby(["label", "comm"], sort=False, as_index=False).sum()
    sums = sums[(sums[list(KINDS.values())] > 0).any(axis=1)]
    most = sums[list(KINDS.values())].max(axis=1).sort_values(ascending=False, kind="stable")
    return sums.loc[most.index].round(3).reset_index(drop=True)

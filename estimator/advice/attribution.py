"""Who gains from sharing and with whom: the physical saving, attributed to those who bring it.

Who is credited with which frame is said in ``ksm/credits.py``; the credits of all mappings add
up to the whole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import count_where, pieces
from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.names import units_of, vma_labels
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces

CREDIT_DIGITS = 6
"""Of what is credited: sums of fractions."""


def contributions(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame:
    """One row per candidate VMA, with its owner and its part in cost and saving.

    Columns: vma_id, mm_id, pid, comm, cgroup, unit, uid, name and label (of the VMA, see
    ``vma_labels``), start, end, ksm_rmap_items, ksm_merging_pages, ksm_zero_pages, unknown_pages,
    scanned_pages (mappings that ksmd visits before anything has merged), saved_pages (f64, frames
    credited), net_bytes (f64, these less a part of what KSM allocates, split in proportion to
    ksm_rmap_items, or to scanned_pages where there are none). They add up to
    ``physical["frames_freed"]`` and ``physical["net_bytes_saved"]``.
    """
    vmas = prediction.vmas[prediction.vmas["excluded_by"].isna()]
    credit = np.zeros(len(snapshot.vmas))
    visited = np.zeros(len(snapshot.vmas), np.int64)
    of_row = prediction.credits.of_row
    for piece, some in in_pieces(snapshot.mappings, ("vma_id",)):
        vma = some["vma_id"].to_numpy().astype(np.int64)
        place, first = vma - vma[0], int(vma[0])
        scanned = prediction.outcome[piece] != Outcome.NOT_CANDIDATE
        for of_vma, of_rows in ((credit, of_row[piece]), (visited, scanned)):
            here = np.bincount(place, of_rows)
            of_vma[first : first + len(here)] += here.astype(of_vma.dtype)
    owners = snapshot.processes[["mm_id", "comm", "cgroup", "uid"]]
    table = vmas.drop(columns="excluded_by").merge(owners, on="mm_id", how="left")
    table["unit"] = units_of(table["cgroup"])
    table["label"] = vma_labels(table)
    table["saved_pages"] = credit[table["vma_id"].to_numpy()]
    table["scanned_pages"] = visited[table["vma_id"].to_numpy()]
    physical = prediction.physical
    records = physical["bytes_saved"] - physical["net_bytes_saved"]
    items = table["ksm_rmap_items" if table["ksm_rmap_items"].any() else "scanned_pages"]
    part = items / items.sum() if items.any() else 1 / max(len(items), 1)
    table["net_bytes"] = table["saved_pages"] * page_bytes(snapshot) - records * part
    return table


_DIGITS = 6  # of sums of credits, so that one sum is one number whatever the order of its parts
_SUMS = [
    "ksm_rmap_items",
    "ksm_merging_pages",
    "ksm_zero_pages",
    "unknown_pages",
    "scanned_pages",
    "saved_pages",
    "net_bytes",
]


def contributions_by(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Sum ``contributions`` by the columns ``keys``, biggest saving first.

    Columns: ``keys``, processes (how many mms), and the sums of the numeric columns.
    """
    grouped = table.groupby(keys, sort=False, dropna=False)
    sums = grouped[_SUMS].sum().round(_DIGITS)
    sums.insert(0, "processes", grouped["mm_id"].nunique())
    order = ["saved_pages", "ksm_merging_pages", "ksm_rmap_items"]
    return sums.sort_values(order, ascending=False, kind="stable").reset_index()


def contributions_total(table: pd.DataFrame) -> dict[str, float]:
    """The sums of all of ``contributions``: processes (how many mms), and the numeric columns."""
    sums = {name: round(table[name].sum(), _DIGITS) for name in _SUMS}
    return {"processes": table["mm_id"].nunique()} | sums


def page_bytes(snapshot: Snapshot) -> int:
    """The page size of the snapshot's kernel, in bytes."""
    return int(snapshot.info["kernel"]["page_size"])


def scanned_pages(prediction: Prediction) -> int:
    """How many pages ksmd visits in a full scan before anything has merged."""
    outcome = prediction.outcome
    return count_where(len(outcome), lambda piece: outcome[piece] != Outcome.NOT_CANDIDATE)


def scanned_frames(snapshot: Snapshot, prediction: Prediction) -> npt.NDArray[np.bool_]:
    """Which frames ksmd visits and can read (bool per row of ``snapshot.frames``)."""
    found = prediction.empty(len(snapshot.frames), np.bool_)
    found[:] = False
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    for piece in pieces(len(frame_of_row)):
        found[frame_of_row[piece][prediction.is_scanned(piece)]] = True
    return found

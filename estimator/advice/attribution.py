"""Who gains from sharing and with whom: the physical saving, attributed to those who bring it.

Who is credited with which frame is said in ``ksm/credits.py``; the credits of all mappings add
up to the whole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.names import units_of, vma_labels
from estimator.snapshot.snapshot import Snapshot


def mapping_mm(snapshot: Snapshot) -> npt.NDArray[np.uint32]:
    """The mm_id of every mapping (u32 per row of ``snapshot.mappings``)."""
    mm_of_vma: npt.NDArray[np.uint32] = snapshot.vmas["mm_id"].to_numpy()
    mm: npt.NDArray[np.uint32] = mm_of_vma[snapshot.mappings["vma_id"].to_numpy()]
    return mm


def contributions(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame:
    """One row per candidate VMA, with its owner and its part in cost and saving.

    Columns: vma_id, mm_id, pid, comm, cgroup, unit, uid, name and label (of the VMA, see
    ``vma_labels``), start, end,
    ksm_rmap_items, ksm_merging_pages, ksm_zero_pages, unknown_pages (pages), saved_pages (f64,
    frames credited), profit_bytes (saved_pages less the rmap_items).
    """
    vmas = prediction.vmas[prediction.vmas["excluded_by"].isna()]
    credit = np.bincount(
        snapshot.mappings["vma_id"].to_numpy(),
        weights=prediction.credits.of_row,
        minlength=len(snapshot.vmas),
    )
    owners = snapshot.processes[["mm_id", "comm", "cgroup", "uid"]]
    table = vmas.drop(columns="excluded_by").merge(owners, on="mm_id", how="left")
    table["unit"] = units_of(table["cgroup"])
    table["label"] = vma_labels(table)
    table["saved_pages"] = credit[table["vma_id"].to_numpy()]
    table["profit_bytes"] = (
        table["saved_pages"] * page_bytes(snapshot)
        - table["ksm_rmap_items"] * snapshot.info["sizes"]["ksm_rmap_item"]
    )
    return table


_SUMS = [
    "ksm_rmap_items",
    "ksm_merging_pages",
    "ksm_zero_pages",
    "unknown_pages",
    "saved_pages",
    "profit_bytes",
]


def contributions_by(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Sum ``contributions`` by the columns ``keys``, biggest saving first.

    Columns: ``keys``, processes (how many mms), and the sums of the numeric columns.
    """
    grouped = table.groupby(keys, sort=False, dropna=False)
    sums = grouped[_SUMS].sum()
    sums.insert(0, "processes", grouped["mm_id"].nunique())
    order = ["saved_pages", "ksm_merging_pages", "ksm_rmap_items"]
    return sums.sort_values(order, ascending=False, kind="stable").reset_index()


def page_bytes(snapshot: Snapshot) -> int:
    """The page size of the snapshot's kernel, in bytes."""
    return int(snapshot.info["kernel"]["page_size"])


def scanned_pages(prediction: Prediction) -> int:
    """How many pages ksmd visits in a full scan before anything has merged."""
    return int(np.count_nonzero(prediction.outcome != Outcome.NOT_CANDIDATE))

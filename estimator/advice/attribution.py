"""Who gains from sharing and with whom: the physical saving, attributed to those who bring it.

The saving of a prediction is a number of frames that become free. To say who brings it, each
freed frame is credited to the mappings that gave it up, in equal parts, as PSS splits a shared
page: of ``d`` frames that end as one, each is credited ``(d - 1) / d``. The credits of all mappings
add up to the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.snapshot import Snapshot


def mapping_mm(snapshot: Snapshot) -> npt.NDArray[np.uint32]:
    """The mm_id of every mapping (u32 per row of ``snapshot.mappings``)."""
    mm_of_vma: npt.NDArray[np.uint32] = snapshot.vmas["mm_id"].to_numpy()
    mm: npt.NDArray[np.uint32] = mm_of_vma[snapshot.mappings["vma_id"].to_numpy()]
    return mm


def converted_mappings(prediction: Prediction) -> npt.NDArray[np.bool_]:
    """Which mappings stop mapping the frame they map now (bool per mapping)."""
    return np.isin(
        prediction.outcome, [Outcome.MERGED, Outcome.ZERO_PAGE, Outcome.SPLIT_AWAY], kind="table"
    )


@dataclass(frozen=True)
class FrameFate:
    """What becomes of every frame.

    ``converted``: i64, how many of its mappings take part in a merge or go to the zero page.
    ``given_up``: bool, all its mappings, system-wide, do: it is freed, or stays as a KSM page.
    ``stable_node``: i64, the frame that its merged mappings map in the end, -1 for none.
    ``credit``: f64, the part of a freed frame credited to it, 0 unless it is given up.
    """

    converted: npt.NDArray[np.int64]
    given_up: npt.NDArray[np.bool_]
    stable_node: npt.NDArray[np.int64]
    credit: npt.NDArray[np.float64]


def frame_fate(snapshot: Snapshot, prediction: Prediction) -> FrameFate:
    """Follow every frame of ``snapshot`` (arrays per row of ``snapshot.frames``).

    A frame of which one mapping stays, in a process that does not take part or a VMA that can't,
    is not freed (ksm-model §12). The split of a huge page takes a zero-filled piece away from all
    who map it.
    """
    frame_id = snapshot.mappings["frame_id"].to_numpy()
    count = len(snapshot.frames)
    converted = np.bincount(frame_id[converted_mappings(prediction)], minlength=count)
    given_up = (converted > 0) & (converted >= snapshot.frames["mapcount"].to_numpy())
    given_up[frame_id[prediction.outcome == Outcome.SPLIT_AWAY]] = True

    node = np.full(count, -1, np.int64)
    merged = np.flatnonzero(prediction.stable_node >= 0)
    node[frame_id[merged]] = prediction.stable_node[merged]
    stays = node == np.arange(count)

    credit = given_up.astype(np.float64)
    onto_node = given_up & (node >= 0)
    frames = np.bincount(node[onto_node], minlength=count)
    kept = np.bincount(node[onto_node & stays], minlength=count)
    credit[onto_node] -= (kept / np.maximum(frames, 1))[node[onto_node]]
    return FrameFate(converted, given_up, node, credit)


def mapping_credit(snapshot: Snapshot, prediction: Prediction) -> npt.NDArray[np.float64]:
    """The part of the saving credited to every mapping, in frames (f64 per mapping)."""
    fate = frame_fate(snapshot, prediction)
    per_mapping = fate.credit / np.maximum(fate.converted, 1)
    credit: npt.NDArray[np.float64] = per_mapping[snapshot.mappings["frame_id"].to_numpy()]
    return np.where(converted_mappings(prediction), credit, 0.0)


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
        weights=mapping_credit(snapshot, prediction),
        minlength=len(snapshot.vmas),
    )
    owners = snapshot.processes[["mm_id", "comm", "cgroup", "uid"]]
    table = vmas.drop(columns="excluded_by").merge(owners, on="mm_id", how="left")
    table["unit"] = table["cgroup"].map({c: unit_of(c) for c in table["cgroup"].unique()})
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


def unit_of(cgroup: str) -> str:
    """The name people know a cgroup by: its systemd unit, else its last path component.

    >>> unit_of("/system.slice/nginx.service/worker")
    'nginx.service'
    """
    parts = [part for part in cgroup.split("/") if part]
    for part in reversed(parts):
        if part.endswith((".service", ".scope")):
            return part
    return parts[-1] if parts else "/"


def vma_labels(vmas: pd.DataFrame) -> npt.NDArray[np.object_]:
    """What to call VMAs that belong together across processes (str per row of ``vmas``).

    Their name; nameless ones, anonymous mmaps, go by their size, which is the same in every process
    of a program where addresses are not.
    """
    size_mib = ((vmas["end"] - vmas["start"]).to_numpy() >> np.uint64(20)).tolist()
    return np.array(
        [
            name or (f"(anonymous, {mib:,} MiB)" if mib else "(anonymous, below 1 MiB)")
            for name, mib in zip(vmas["name"], size_mib, strict=True)
        ],
        np.object_,
    )


def page_bytes(snapshot: Snapshot) -> int:
    """The page size of the snapshot's kernel, in bytes."""
    return int(snapshot.info["kernel"]["page_size"])


def scanned_pages(prediction: Prediction) -> int:
    """How many pages ksmd visits in a full scan before anything has merged."""
    return int(np.count_nonzero(prediction.outcome != Outcome.NOT_CANDIDATE))

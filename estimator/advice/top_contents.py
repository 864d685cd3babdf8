"""The contents that lie in memory most often, and where."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.attribution import page_bytes, vma_labels
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot


def top_contents(snapshot: Snapshot, prediction: Prediction, limit: int = 10) -> pd.DataFrame:
    """The duplicated contents that free the most frames, biggest first.

    Contents that lie in the same places in the same numbers of copies make one row, so that a
    thousand pages preloaded by every worker are one line and not a thousand. Columns: contents
    (how many), copies (of each: mappings that give up their frame), saved_pages (f64, of all),
    zero (nothing but zero bytes), places (list of "comm name × copies", most copies first), and of
    one copy to look at pid, name (of the VMA), address (u64).
    """
    frame_id = snapshot.mappings["frame_id"].to_numpy()
    rows = np.flatnonzero(prediction.converted)
    rows = rows[prediction.content[frame_id[rows]] >= 0]
    content, _ = pd.factorize(prediction.content[frame_id[rows]])
    place, places = _places(snapshot, rows)

    number = np.random.default_rng(0).integers(1, 2**64, size=len(places), dtype=np.uint64)
    signature = np.zeros(content.max(initial=-1) + 1, np.uint64)
    np.add.at(signature, content, number[place])
    table = pd.DataFrame(
        {
            "signature": signature,
            "copies": np.bincount(content),
            "saved_pages": np.bincount(content, weights=prediction.credits.of_row[rows]),
            "zero": _first_of(content, _is_zero(snapshot)[frame_id[rows]]),
            "row": _first_of(content, rows),
        }
    )
    grouped = table.groupby(["signature", "zero"], sort=False)
    patterns = grouped.agg(
        contents=("copies", "size"),
        copies=("copies", "first"),
        saved_pages=("saved_pages", "sum"),
        row=("row", "first"),
    ).reset_index("zero")
    patterns = patterns.nlargest(limit, ["saved_pages", "copies"]).reset_index(drop=True)
    patterns["places"] = [
        _count_places(places[place[content == content[np.searchsorted(rows, row)]]])
        for row in patterns["row"]
    ]
    return patterns.drop(columns="row").join(_whereabouts(snapshot, patterns["row"].to_numpy()))


def _first_of(group: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    _, first = np.unique(group, return_index=True)
    return values[first]


def _is_zero(snapshot: Snapshot) -> npt.NDArray[np.bool_]:
    zero: npt.NDArray[np.bool_] = (snapshot.frames["flags"].to_numpy() & FrameFlag.ZERO) != 0
    return zero


def _places(
    snapshot: Snapshot, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.object_]]:
    """A code per mapping of ``rows``, equal where program and VMA name are, and their names."""
    comms = snapshot.processes["comm"].to_numpy()[snapshot.vmas["mm_id"].to_numpy()]
    of_vma, names = pd.factorize(np.asarray(comms + " " + vma_labels(snapshot.vmas), np.object_))
    return of_vma[snapshot.mappings["vma_id"].to_numpy()[rows]], names


def _count_places(places: npt.NDArray[np.object_]) -> list[str]:
    counts = Counter(str(place) for place in places).most_common()
    return [f"{place} × {n}" if n > 1 else place for place, n in counts]


def _whereabouts(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> pd.DataFrame:
    mappings = snapshot.mappings.iloc[rows]
    vmas = snapshot.vmas.iloc[mappings["vma_id"].to_numpy()]
    offset = mappings["page_index"].to_numpy().astype(np.uint64) * np.uint64(page_bytes(snapshot))
    return pd.DataFrame(
        {
            "pid": snapshot.processes["pid"].to_numpy()[vmas["mm_id"].to_numpy()],
            "name": vma_labels(vmas),
            "address": vmas["start"].to_numpy() + offset,
        }
    )

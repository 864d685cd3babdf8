"""The contents that lie in memory most often, and where."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.names import units_of, vma_labels
from estimator.snapshot.snapshot import Snapshot

if TYPE_CHECKING:
    from estimator.arrays import Ints
    from estimator.ksm.prediction import Prediction

_PLACE = ["comm", "unit", "label"]


def contents(prediction: Prediction, limit: int) -> pd.DataFrame:
    """``Prediction.contents``."""
    snapshot = prediction.snapshot
    frame_id = snapshot.mappings["frame_id"].to_numpy()
    rows = np.flatnonzero(prediction.converted)
    rows = rows[prediction.content[frame_id[rows]] >= 0]
    content, _ = pd.factorize(prediction.content[frame_id[rows]])
    count = int(content.max(initial=-1)) + 1
    place, places = _places(snapshot, rows)

    number = np.random.default_rng(0).integers(1, 2**64, size=len(places), dtype=np.uint64)
    signature = np.zeros(count, np.uint64)
    np.add.at(signature, content, number[place])
    _, first_of_frame = np.unique(frame_id[rows], return_index=True)
    table = pd.DataFrame(
        {
            "signature": signature,
            "zero": _first_of(content, _is_zero(snapshot)[frame_id[rows]]),
            "frames": np.bincount(content[first_of_frame], minlength=count),
            "mappings": np.bincount(content),
            "saved_pages": np.bincount(content, weights=prediction.credits.of_row[rows]),
            "row": _first_of(content, rows),
        }
    )
    patterns = table.groupby(["signature", "zero", "frames"], sort=False).agg(
        contents=("mappings", "size"),
        mappings=("mappings", "first"),
        saved_pages=("saved_pages", "sum"),
        row=("row", "first"),
    )
    patterns = patterns.nlargest(limit, ["saved_pages", "mappings"]).reset_index()
    example = patterns["row"].to_numpy()
    chosen = content[np.searchsorted(rows, example)]
    patterns["holders"] = pd.Series(_holders(places, place, content, chosen), dtype=object)
    columns = ["contents", "frames", "mappings", "saved_pages", "zero", "holders"]
    return patterns[columns].join(_whereabouts(snapshot, example))


def _first_of(group: Ints, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    _, first = np.unique(group, return_index=True)
    return values[first]


def _is_zero(snapshot: Snapshot) -> npt.NDArray[np.bool_]:
    zero: npt.NDArray[np.bool_] = (snapshot.frames["flags"].to_numpy() & FrameFlag.ZERO) != 0
    return zero


def _places(snapshot: Snapshot, rows: Ints) -> tuple[Ints, pd.DataFrame]:
    """A number per mapping of ``rows``, equal where all of ``_PLACE`` is, and these."""
    owners = snapshot.processes.iloc[snapshot.vmas["mm_id"].to_numpy()]
    of_vma = pd.DataFrame(
        {
            "comm": owners["comm"].to_numpy(),
            "unit": units_of(owners["cgroup"]).to_numpy(),
            "label": vma_labels(snapshot.vmas),
        }
    )
    number = of_vma.groupby(_PLACE, sort=False).ngroup().to_numpy(np.int64)
    places = of_vma.drop_duplicates().reset_index(drop=True)
    return number[snapshot.mappings["vma_id"].to_numpy()[rows]], places


def _holders(
    places: pd.DataFrame, place: Ints, content: Ints, chosen: Ints
) -> list[list[dict[Hashable, Any]]]:
    """Of every content in ``chosen`` its places, those with most mappings first."""
    wanted = np.isin(content, chosen)
    table = pd.DataFrame({"content": content[wanted], "place": place[wanted]})
    counts = table.value_counts(sort=False).rename("mappings").reset_index()
    counts = counts.sort_values(["mappings", "place"], ascending=[False, True])
    of_content = {
        number: places.take(rows["place"].to_numpy()).assign(mappings=rows["mappings"].to_numpy())
        for number, rows in counts.groupby("content")
    }
    return [of_content[number].to_dict("records") for number in chosen]


def _whereabouts(snapshot: Snapshot, rows: Ints) -> pd.DataFrame:
    mappings = snapshot.mappings.iloc[rows]
    vmas = snapshot.vmas.iloc[mappings["vma_id"].to_numpy()]
    page_bytes = np.uint64(snapshot.info["kernel"]["page_size"])
    return pd.DataFrame(
        {
            "pid": snapshot.processes["pid"].to_numpy()[vmas["mm_id"].to_numpy()],
            "label": vma_labels(vmas),
            "address": vmas["start"].to_numpy()
            + mappings["page_index"].to_numpy().astype(np.uint64) * page_bytes,
        }
    )

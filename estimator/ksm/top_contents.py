"""The contents that lie in memory most often, and where."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from estimator.arrays import Ints, Met, Numbers, in_turn, pieces
from estimator.ksm.content_parts import parts_of, rows_by_content
from estimator.ksm.frames import frames_with
from estimator.ksm.sharing import TIE_DIGITS
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.names import units_of, vma_labels
from estimator.snapshot.snapshot import Snapshot, vma_starts, vmas_of
from estimator.snapshot.stored_table import rows_at

if TYPE_CHECKING:
    from estimator.ksm.prediction import Prediction

_PLACE = ["comm", "unit", "label"]


def contents(prediction: Prediction, limit: int) -> pd.DataFrame:
    """``Prediction.contents``."""
    snapshot, content = prediction.snapshot, prediction.content
    frame_id, starts = snapshot.mappings["frame_id"].to_numpy(), vma_starts(snapshot)
    place_of_vma, places = _places(snapshot)
    patterns = _all_patterns(prediction, place_of_vma, starts)
    saved = patterns["saved_pages"].round(TIE_DIGITS)
    order = np.lexsort((-patterns["mappings"], -saved))[:limit]
    patterns = patterns.take(order).reset_index()
    example = patterns["row"].to_numpy()
    chosen = content[frame_id[example]]
    counts = _counts(prediction, chosen, place_of_vma, starts)
    patterns["holders"] = pd.Series(_holders(places, counts, chosen), dtype=object)
    columns = ["contents", "frames", "mappings", "saved_pages", "zero", "holders"]
    return patterns[columns].join(_whereabouts(snapshot, example))


def _all_patterns(prediction: Prediction, place_of_vma: Ints, starts: Ints) -> pd.DataFrame:
    """What ``contents`` says of all, alike ones together; ``starts``: ``vma_starts``."""
    snapshot, content = prediction.snapshot, prediction.content
    frame_id = snapshot.mappings["frame_id"].to_numpy()
    number = np.random.default_rng(0).integers(
        1, 2**64, size=int(place_of_vma.max(initial=-1)) + 1, dtype=np.uint64
    )
    zero, credit_of_row = frames_with(snapshot.frames, FrameFlag.ZERO), prediction.credits.of_row
    met, parts = Met(len(content), prediction.empty), parts_of(len(frame_id))
    size = int(content.max(initial=-1)) // parts + 1  # how many contents come in a part

    def patterns_of(rows: Ints) -> pd.DataFrame:
        """What ``contents`` says of the contents of ``rows``, which have all of their mappings."""
        signature, saved = np.zeros(size, np.uint64), np.zeros(size)
        frames, mappings, first = (np.zeros(size, np.int64) for _ in range(3))
        for piece in pieces(len(rows)):
            here = rows[piece]
            here = here[prediction.is_converted(here)]
            frame = frame_id.take(here)
            of_row = content.take(frame)
            known = np.flatnonzero(of_row >= 0)
            here, frame, of_row = here[known], frame[known], of_row[known] // parts
            new = np.flatnonzero(mappings[of_row] == 0)
            first[of_row[new[::-1]]] = here[new[::-1]]
            np.add.at(signature, of_row, number.take(place_of_vma[vmas_of(starts, here)]))
            frames += np.bincount(of_row[met.new(frame)], minlength=size)
            mappings += np.bincount(of_row, minlength=size)
            saved += np.bincount(of_row, credit_of_row[here], size)
        there = np.flatnonzero(mappings)
        there = there[np.argsort(first[there])]
        table = pd.DataFrame(
            {
                "signature": signature[there],
                "zero": zero.take(frame_id.take(first[there])),
                "frames": frames[there],
                "contents": np.ones(len(there), np.int64),
                "mappings": mappings[there],
                "saved_pages": saved[there],
                "row": first[there],
            }
        )
        return _alike(table).reset_index()

    found = in_turn(patterns_of, rows_by_content(content, frame_id, prediction.empty))
    return _alike(pd.concat(found).sort_values("row"))


def _alike(table: pd.DataFrame) -> pd.DataFrame:
    """One row for contents that lie in the same places in the same numbers, the first first."""
    return table.groupby(["signature", "zero", "frames"], sort=False).agg(
        contents=("contents", "sum"),
        mappings=("mappings", "first"),
        saved_pages=("saved_pages", "sum"),
        row=("row", "first"),
    )


def _counts(
    prediction: Prediction, chosen: Numbers, place_of_vma: Ints, starts: Ints
) -> pd.DataFrame:
    """content, place, mappings: how many that are merged have one of the ``chosen`` contents."""
    content, frame_id = prediction.content, prediction.snapshot.mappings["frame_id"].to_numpy()
    is_chosen = prediction.empty(int(content.max(initial=-1)) + 2, np.bool_)
    is_chosen[:] = False  # the last: of what is unknown
    is_chosen[chosen] = True
    found = [pd.DataFrame({"content": chosen[:0], "place": place_of_vma[:0], "mappings": 0})]
    for piece in pieces(len(frame_id)):
        of_row = content[frame_id[piece]]
        here = np.flatnonzero(is_chosen[of_row] & prediction.is_converted(piece))
        place = place_of_vma[vmas_of(starts, here + piece.start)]
        table = pd.DataFrame({"content": of_row[here], "place": place})
        found.append(table.value_counts(sort=False).rename("mappings").reset_index())
    return pd.concat(found).groupby(["content", "place"], as_index=False).sum()


def _places(snapshot: Snapshot) -> tuple[Ints, pd.DataFrame]:
    """A number per VMA, equal where all of ``_PLACE`` is, and these."""
    owners = snapshot.processes.iloc[snapshot.vmas["mm_id"].to_numpy()]
    of_vma = pd.DataFrame(
        {
            "comm": owners["comm"].to_numpy(),
            "unit": units_of(owners["cgroup"]).to_numpy(),
            "label": vma_labels(snapshot.vmas),
        }
    )
    number = np.asarray(of_vma.groupby(_PLACE, sort=False).ngroup(), np.int64)
    places = of_vma.drop_duplicates().reset_index(drop=True)
    return number, places


def _holders(
    places: pd.DataFrame, counts: pd.DataFrame, chosen: Numbers
) -> list[list[dict[Hashable, Any]]]:
    """Of every content in ``chosen`` its places, those with most mappings first."""
    counts = counts.sort_values(["mappings", "place"], ascending=[False, True])
    of_content = {
        number: places.take(rows["place"].to_numpy()).assign(mappings=rows["mappings"].to_numpy())
        for number, rows in counts.groupby("content")
    }
    return [of_content[number].to_dict("records") for number in chosen]


def _whereabouts(snapshot: Snapshot, rows: Ints) -> pd.DataFrame:
    vma, page = rows_at(snapshot.mappings, ("vma_id", "page_index"), rows)
    vmas = snapshot.vmas.iloc[vma]
    page_bytes = np.uint64(snapshot.info["kernel"]["page_size"])
    return pd.DataFrame(
        {
            "pid": snapshot.processes["pid"].to_numpy()[vmas["mm_id"].to_numpy()],
            "label": vma_labels(vmas),
            "address": vmas["start"].to_numpy() + page.astype(np.uint64) * page_bytes,
        }
    )

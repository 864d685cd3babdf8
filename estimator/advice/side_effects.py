"""What KSM does to a machine besides saving memory, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.advice.attribution import page_bytes
from estimator.ksm.credits import folio_rows
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces

_PMD_BYTES = 2 << 20


@dataclass(frozen=True)
class SideEffects:
    """What an operator gives for the saving.

    ``split_huge_pages``, ``huge_pages``: large folios of a PMD (2 MiB) that ksmd splits, of those
    that it scans; ``split_bytes``: all large folios that it splits, smaller ones too.

    ``changed_pages`` of ``compared_pages``: candidates that had other bytes in another look,
    ``interval_seconds`` on (None: not known); without one all three are None.

    ``unmerge_bytes``: memory that undoing it takes (``echo 2 > run``): each mapping of a KSM page,
    and of a zero page that ksmd placed, gets a page of its own
    (unmerge_and_remove_all_rmap_items() in mm/ksm.c). ``freed_bytes``: what the merge frees, less
    where fork shared frames before.
    """

    split_huge_pages: int
    huge_pages: int
    split_bytes: int
    compared_pages: int | None
    changed_pages: int | None
    interval_seconds: float | None
    unmerge_bytes: int
    freed_bytes: int


def side_effects(snapshot: Snapshot, prediction: Prediction) -> SideEffects:
    """The side effects of ``prediction``."""
    size, freed, coverage = page_bytes(snapshot), prediction.freed, prediction.coverage
    folios = len(freed.split)
    scanned, folio_bytes = np.zeros(folios, np.bool_), np.zeros(folios, np.int64)
    if folios:
        for _, folio in folio_rows(freed, prediction.is_scanned, np.ones(folios, np.bool_)):
            scanned[folio] = True
        # pages that are there only after unmerging are no large folios
        for piece, some in in_pieces(snapshot.frames, ("order",)):
            large = np.flatnonzero(freed.folio[piece] >= 0)
            order = some["order"].to_numpy()[large].astype(np.int64)
            folio_bytes[freed.folio[piece][large]] = size << order
    huge = scanned & (folio_bytes >= _PMD_BYTES)
    mappings = prediction.counters["pages_sharing"] + int(
        prediction.processes["ksm_zero_pages"].sum()
    )
    looks = coverage.compared_pages is not None
    return SideEffects(
        split_huge_pages=int(np.count_nonzero(huge & freed.split)),
        huge_pages=int(np.count_nonzero(huge)),
        split_bytes=int(folio_bytes[freed.split].sum()),
        compared_pages=coverage.compared_pages,
        changed_pages=coverage.changed_pages if looks else None,
        interval_seconds=snapshot.info.get("passes", {}).get("interval_seconds"),
        unmerge_bytes=mappings * size,
        freed_bytes=prediction.physical["bytes_saved"],
    )

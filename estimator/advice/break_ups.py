"""Pages that merge and are written now and then: what several looks at a system say of them.

A write to a merged page gives the writer a copy (do_wp_page() in mm/memory.c). ksmd finds that copy
changed in its next full scan and stores its checksum, and merges it in the one after, if it held
still until then (cmp_and_merge_page() in mm/ksm.c): one and a half scans later on the average. Up
to 6.10 what equals a merged page is merged before its checksum is looked at, a scan earlier. What
each write takes is a fault and a copy in the program, and a search and a merge in ksmd.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.names import vma_labels
from estimator.snapshot.stored_table import in_pieces


@dataclass(frozen=True)
class BreakUps:
    """What is known of writes to pages that merge, from the looks before the last pair.

    ``seconds``: between the first of these looks and the last. ``merged_pages``: mappings that
    merge, or go to the zero page; ``written_pages``: of these, changed at least once in that time.
    ``scans_until_back``: on the average, see above. ``table``: by program and label of the VMAs,
    most written first: comm, name, merged_pages, written_pages, per_second.
    """

    seconds: float
    merged_pages: int
    written_pages: int
    scans_until_back: float
    table: pd.DataFrame

    @property
    def per_second(self) -> float:
        """At least so many merged pages are written in a second: each counts once."""
        return self.written_pages / self.seconds

    def missing_pages(self, scan_seconds: float) -> float:
        """How many of the merged ones are not merged at a time, where a full scan takes so long.

        Each page is written at that rate; one that is written oftener than it comes back never is.
        """
        back_seconds = self.scans_until_back * scan_seconds
        return self.written_pages * back_seconds / (back_seconds + self.seconds)


def break_ups(prediction: Prediction) -> BreakUps | None:
    """The writes seen; None where there were fewer than three looks, or it is not known when."""
    snapshot = prediction.snapshot
    passes = snapshot.info.get("passes", {})
    pairs = passes.get("count", 1) - 2
    interval = passes.get("interval_seconds")
    if pairs < 1 or not interval:
        return None
    merged, written = (np.zeros(len(snapshot.vmas), np.int64) for _ in range(2))
    for piece, some in in_pieces(snapshot.mappings, ("vma_id", "flags")):
        converted = prediction.is_converted(piece)
        vma_id, flags = (some[name].to_numpy()[converted] for name in ("vma_id", "flags"))
        np.add.at(merged, vma_id, 1)
        np.add.at(written, vma_id[(flags & np.uint8(MappingFlag.CHANGED_BEFORE)) != 0], 1)
    comm = snapshot.processes["comm"].to_numpy()[snapshot.vmas["mm_id"].to_numpy()]
    table = pd.DataFrame(
        {
            "comm": comm,
            "name": vma_labels(snapshot.vmas),
            "merged_pages": merged,
            "written_pages": written,
        }
    )
    table = table[table["written_pages"] > 0].groupby(["comm", "name"], as_index=False).sum()
    seconds = pairs * float(interval)
    table = table.assign(per_second=table["written_pages"] / seconds)
    return BreakUps(
        seconds=seconds,
        merged_pages=int(merged.sum()),
        written_pages=int(written.sum()),
        scans_until_back=1.5 if snapshot.info["features"]["checksum_before_stable_tree"] else 0.5,
        table=table.sort_values("written_pages", ascending=False, ignore_index=True),
    )

"""How much of what ksmd would look at was read: what every command says of a prediction."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from estimator.arrays import Ints, Numbers
from estimator.ksm.candidates import unknown_counts
from estimator.ksm.case import Case


@dataclass(frozen=True)
class Coverage:
    """What was known of the candidates; all but ``unknown_by_reason`` in pages (mappings).

    ``candidate_pages``: mappings found that ksmd would visit; ``hashed_pages`` of them with known
    content, ``unknown_pages`` without, ``unknown_by_reason`` (reason: pages). ``compared_pages``:
    candidates that another look has too; None: there was none. ``changed_pages``: candidates that
    keep changing. ``moved_frames``: how many more would become free if nothing changed than if all
    that ever did between looks were left out; None: no other look has any candidate.
    ``page_table_missing_pages``: entries of candidate VMAs whose page table could not be read.
    ``lost_pages``: anonymous pages that the kernel counts and nobody was found to map; only where
    every process is selected. ``swap_pages``, ``nonpresent_pages``: of candidate VMAs, not visited
    while they are so. ``unknown_frames``: distinct frames of ``unknown_pages``.
    ``pages_sharing_at_most``: the counter if all that was not read merged.
    """

    candidate_pages: int
    hashed_pages: int
    unknown_pages: int
    unknown_by_reason: dict[str, int]
    compared_pages: int | None
    changed_pages: int
    moved_frames: int | None
    swap_pages: int
    nonpresent_pages: int
    page_table_missing_pages: int
    lost_pages: int
    unknown_frames: int
    pages_sharing_at_most: int

    @property
    def pages(self) -> int:
        """All that should have been read: candidates found, missing and lost ones."""
        return self.candidate_pages + self.page_table_missing_pages + self.lost_pages

    @property
    def not_read_pages(self) -> int:
        """How many of ``pages`` have no known content."""
        return self.pages - self.hashed_pages

    @property
    def could_add_frames(self) -> int:
        """The most frames by which the saving could be higher had everything been read."""
        return self.unknown_frames + self.page_table_missing_pages + self.lost_pages

    @property
    def hashed_share(self) -> float | None:
        """The part of ``pages`` that was read; None where there is nothing to read."""
        return self.hashed_pages / self.pages if self.pages else None

    def to_json(self) -> dict[str, Any]:
        """The fields and ``hashed_share`` (null where there is nothing to read)."""
        return dataclasses.asdict(self) | {"hashed_share": self.hashed_share}


def coverage_of(
    case: Case,
    rows: Ints | Numbers,
    pages_sharing: int,
    compared_pages: int | None,
    moved_frames: int | None,
) -> Coverage:
    """What was known of the candidates of ``case``.

    ``rows``: of ``mappings``, the candidates whose content is not known. ``pages_sharing``: the
    counter as predicted for the others. ``compared_pages``, ``moved_frames``: see ``Coverage``.
    """
    candidates, vmas = case.candidates, case.snapshot.vmas
    total = len(candidates.frame) + len(candidates.changing)
    by_reason: dict[str, int] = {}
    frames = 0
    if len(rows):
        per_frame = np.bincount(case.frame_of_row[rows], minlength=len(case.facts.items))
        by_reason = unknown_counts(case.snapshot.frames, per_frame)
        frames = int(np.count_nonzero(per_frame))

    def of_candidate_vmas(name: str) -> int:
        return int(vmas[name].to_numpy()[candidates.vmas].sum())

    missing = of_candidate_vmas("unknown_pages")
    lost = 0  # of no VMA that was found
    if candidates.mms.all():
        lost = int(case.snapshot.info.get("unknown", {}).get("anonymous_pages", 0))
    return Coverage(
        candidate_pages=total,
        hashed_pages=total - len(rows),
        unknown_pages=len(rows),
        unknown_by_reason=by_reason,
        compared_pages=compared_pages,
        changed_pages=len(candidates.changing),
        moved_frames=moved_frames,
        swap_pages=of_candidate_vmas("swap_pages"),
        nonpresent_pages=of_candidate_vmas("nonpresent_pages"),
        page_table_missing_pages=missing,
        lost_pages=lost,
        unknown_frames=frames,
        pages_sharing_at_most=pages_sharing + len(rows) + missing + lost,
    )

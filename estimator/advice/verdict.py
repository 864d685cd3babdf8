"""The two savings and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.advice.attribution import page_bytes, scanned_pages
from estimator.arrays import count_where, pieces, rows_where
from estimator.ksm.prediction import Outcome, Prediction
from estimator.ksm.zero_counters import known_by_vma
from estimator.snapshot.flags import FrameKind
from estimator.snapshot.snapshot import Snapshot

WORTH_IT = 0.01
"""Below this part of the anonymous memory a saving does not pay for ksmd: a convention of ours."""


@dataclass(frozen=True)
class Savings:
    """What the kernel will claim and what the machine gets back.

    ``general_profit_bytes`` as the kernel computes it. ``freed_bytes``: frames that become free.
    ``net_bytes``: less ``bookkeeping_bytes`` (rmap_items, stable nodes, mm slots that are not
    there yet).
    ``merged_now_pages``: references that existed when the snapshot was taken;
    ``merged_now_bytes``: all that KSM saves then, whoever takes part; 0 if all is unmerged first.
    ``fork_shared_pages``: converted mappings that free nothing because fork shared their frame
    before. ``kept_pages``: converted mappings whose frame stays, mapped by something that does not
    take part. ``split_away_pages``: mappings of zero-filled pieces of huge pages, freed by the
    split alone and counted nowhere.
    ``anonymous_bytes``: all anonymous memory that the saving is part of, pieces of
    huge pages that nobody maps among it. ``scanned_pages``: what ksmd visits.
    """

    general_profit_bytes: int
    freed_bytes: int
    bookkeeping_bytes: int
    net_bytes: int
    merged_now_pages: int
    merged_now_bytes: int
    fork_shared_pages: int
    kept_pages: int
    split_away_pages: int
    anonymous_bytes: int
    scanned_pages: int

    @property
    def worth_it(self) -> bool:
        """Whether the net saving is at least ``WORTH_IT`` of the anonymous memory."""
        return self.net_bytes > 0 and self.net_bytes >= WORTH_IT * self.anonymous_bytes


def savings(snapshot: Snapshot, prediction: Prediction) -> Savings:
    """Both savings of ``prediction`` and what lies between them."""
    fate = prediction.credits
    counters, physical = prediction.counters, prediction.physical
    starts_over = len(prediction.freed.gone) > len(snapshot.frames)  # see unmerge.py
    kind = snapshot.frames["kind"].to_numpy()
    references_now = forked = kept = 0
    for piece in pieces(len(fate.given_up)):  # pages of their own come after the frames
        merged_now = np.zeros(piece.stop - piece.start, np.bool_)
        merged_now[: max(len(kind) - piece.start, 0)] = kind[piece] == FrameKind.KSM
        given_up, converted = fate.given_up[piece], fate.converted[piece]
        more = np.maximum(converted, 1).astype(np.int64) - 1
        references_now += int(more[merged_now].sum())
        forked += int(more[given_up & ~merged_now].sum())
        kept += int(converted[~given_up & ~merged_now].sum())
    return Savings(
        general_profit_bytes=counters["general_profit"],
        freed_bytes=physical["bytes_saved"],
        bookkeeping_bytes=physical["bytes_saved"] - physical["net_bytes_saved"],
        net_bytes=physical["net_bytes_saved"],
        merged_now_pages=references_now,
        merged_now_bytes=0 if starts_over else _merged_now_bytes(snapshot),
        fork_shared_pages=forked,
        kept_pages=kept,
        split_away_pages=count_where(
            len(prediction.outcome),
            lambda piece: prediction.outcome[piece] == Outcome.SPLIT_AWAY,
        ),
        anonymous_bytes=physical["frames_before"] * page_bytes(snapshot),
        scanned_pages=scanned_pages(prediction),
    )


def _merged_now_bytes(snapshot: Snapshot) -> int:
    """What KSM saves in the snapshot: mappings of its pages, but one of each, and zero pages.

    Taken from the kernel's own pages_sharing where it has it; its ksm_zero_pages is not what there
    is (``zero_counters.py``).
    """
    sharing = snapshot.info["ksm"].get("counters", {}).get("pages_sharing")
    if sharing is None:
        kind, mapcount = (snapshot.frames[name].to_numpy() for name in ("kind", "mapcount"))
        ksm = rows_where(len(kind), lambda piece: kind[piece] == FrameKind.KSM)
        sharing = int((mapcount[ksm] - 1).clip(0).sum())
    placed = (snapshot.vmas if known_by_vma(snapshot) else snapshot.processes)["ksm_zero_pages"]
    return (int(sharing) + int(placed.sum())) * page_bytes(snapshot)

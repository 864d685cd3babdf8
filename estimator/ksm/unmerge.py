"""The system after ``echo 2 > /sys/kernel/mm/ksm/run``: where a what-if has to start over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from estimator.arrays import Empty, Mask, count, made, numbers_where, pieces, take
from estimator.ksm.candidates import on_ksmds_list
from estimator.ksm.policy import Policy
from estimator.ksm.zero_counters import known_by_vma
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag
from estimator.snapshot.joined import Rows, counted, joined, with_columns
from estimator.snapshot.snapshot import Snapshot


def has_to_start_over(snapshot: Snapshot, policy: Policy, ksm: Mapping[str, Any]) -> bool:
    """The kernel refuses these settings while it has merged pages.

    max_page_sharing_store() and merge_across_nodes_store() in mm/ksm.c: EBUSY.
    """
    return bool(snapshot.stable_nodes["live"].any()) and (
        policy.max_page_sharing != int(ksm["max_page_sharing"])
        or policy.merge_across_nodes != bool(ksm["merge_across_nodes"])
    )


def zero_pages_given_back(snapshot: Snapshot) -> int:
    """Mappings of zero pages that ksmd placed, and that unmerging replaces by pages of their own.

    break_ksm() in mm/ksm.c, 6.6+. No snapshot says where in their VMA they are (or, where the VMA
    is not known, in their process), so ``unmerged`` does not have these pages.
    """
    vmas, listed = snapshot.vmas, on_ksmds_list(snapshot)
    if not known_by_vma(snapshot):
        return int(snapshot.processes["ksm_zero_pages"][listed].sum())
    return int(vmas["ksm_zero_pages"].to_numpy()[_are_broken(snapshot)].sum())


def _are_broken(snapshot: Snapshot) -> Mask:
    """Bool per VMA: unmerge_and_remove_all_rmap_items() comes to it."""
    vmas = snapshot.vmas
    broken: Mask = vmas["mergeable"].to_numpy() & on_ksmds_list(snapshot)[vmas["mm_id"].to_numpy()]
    return broken


def unmerged(snapshot: Snapshot, empty: Empty = np.empty) -> Snapshot:
    """Every mapping of a KSM page in a mergeable VMA gets a page of its own.

    As unmerge_and_remove_all_rmap_items() in mm/ksm.c does it. The new pages come after the rows
    of ``snapshot.frames``, whose numbers stay. ``empty``: makes the columns of both tables.
    """
    frames, mappings, vma_broken = snapshot.frames, snapshot.mappings, _are_broken(snapshot)
    ksm, vma = frames["kind"].to_numpy() == FrameKind.KSM, mappings["vma_id"].to_numpy()
    before = mappings["frame_id"].to_numpy()
    broken = made(
        len(before), np.bool_, lambda piece: ksm[before[piece]] & vma_broken[vma[piece]], empty
    )
    rows = numbers_where(broken, empty)
    left, ksm_frame = len(frames), take(before, rows, empty).view(np.int32)
    there, new = counted(0, left, empty), counted(left, left + len(rows), empty)
    columns = joined([Rows(frames, there, there), Rows(frames, ksm_frame, new)], empty)
    columns["kind"][left:] = FrameKind.ANONYMOUS
    columns["flags"][left:] &= ~np.uint32(FrameFlag.SWAPCACHE)
    gone = count(ksm_frame, left, empty=empty)
    for name in ("mapcount", "refcount", "folio_mapcount"):
        columns[name][:left] -= gone
        columns[name][left:] = 1
    frame = made(len(before), np.uint32, lambda piece: before[piece], empty)
    for piece in pieces(len(rows)):
        frame[rows[piece]] = new[piece]
    marked, not_merged = mappings["flags"].to_numpy(), np.uint8(~MappingFlag.MERGED & 0xFF)
    flags = made(len(marked), np.uint8, lambda piece: marked[piece] & not_merged, empty)
    return replace(
        snapshot,
        frames=pd.DataFrame(columns, copy=False),
        mappings=with_columns(mappings, frame_id=frame, flags=flags),
        stable_nodes=snapshot.stable_nodes.iloc[:0],
        stable_items=snapshot.stable_items.iloc[:0],
    )

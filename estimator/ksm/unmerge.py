"""The system after ``echo 2 > /sys/kernel/mm/ksm/run``: where a what-if has to start over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from estimator.ksm.candidates import on_ksmds_list
from estimator.ksm.policy import Policy
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag
from estimator.snapshot.snapshot import Snapshot


def has_to_start_over(snapshot: Snapshot, policy: Policy, ksm: Mapping[str, Any]) -> bool:
    """The kernel refuses these settings while it has merged pages.

    max_page_sharing_store() and merge_across_nodes_store() in mm/ksm.c: EBUSY.
    """
    return bool(snapshot.stable_nodes["live"].any()) and (
        policy.max_page_sharing != int(ksm["max_page_sharing"])
        or policy.merge_across_nodes != bool(ksm["merge_across_nodes"])
    )


def unmerged(snapshot: Snapshot) -> Snapshot:
    """Every mapping of a KSM page in a mergeable VMA gets a page of its own.

    As unmerge_and_remove_all_rmap_items() in mm/ksm.c does it. The new pages come after the rows
    of ``snapshot.frames``, whose numbers stay.
    """
    frames, mappings = snapshot.frames, snapshot.mappings
    ksm = frames["kind"].to_numpy() == FrameKind.KSM
    listed = on_ksmds_list(snapshot)
    vma_broken = snapshot.vmas["mergeable"].to_numpy() & listed[snapshot.vmas["mm_id"].to_numpy()]
    frame = mappings["frame_id"].to_numpy().copy()
    rows = np.flatnonzero(ksm[frame] & vma_broken[mappings["vma_id"].to_numpy()])
    copies = frames.iloc[frame[rows]].copy()
    copies["kind"] = np.uint8(FrameKind.ANONYMOUS)
    copies["flags"] = copies["flags"].to_numpy() & ~np.uint32(FrameFlag.SWAPCACHE)
    copies[["mapcount", "refcount", "folio_mapcount"]] = np.int32(1)
    left = frames.copy()
    gone = np.bincount(frame[rows], minlength=len(frames)).astype(np.int32)
    for column in ("mapcount", "refcount", "folio_mapcount"):
        left[column] -= gone
    frame[rows] = np.arange(len(frames), len(frames) + len(rows), dtype=np.uint32)
    flags = mappings["flags"].to_numpy() & np.uint8(~MappingFlag.MERGED & 0xFF)
    return replace(
        snapshot,
        frames=pd.concat([left, copies], ignore_index=True),
        mappings=mappings.assign(frame_id=frame, flags=flags),
        stable_nodes=snapshot.stable_nodes.iloc[:0],
        stable_items=snapshot.stable_items.iloc[:0],
    )

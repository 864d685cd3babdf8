"""The stable tree where no reader could follow it (/proc): what KSM's pages say of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from estimator.arrays import Bytes, Empty, Numbers, made
from estimator.ksm.candidates import on_ksmds_list
from estimator.snapshot.flags import FrameKind, MappingFlag
from estimator.snapshot.joined import with_columns
from estimator.snapshot.snapshot import Snapshot


def with_seen_nodes(
    snapshot: Snapshot, *, merge_across_nodes: bool, empty: Empty = np.empty
) -> Snapshot:
    """``snapshot`` with a live stable node for each KSM page, if its stable tree was not read.

    The page of a stable node is what PageKsm() is true of (set_page_stable_node() in mm/ksm.c);
    nodes of equal pages are the dups of one chain, of one NUMA node each unless
    ``merge_across_nodes``. What maps the page in a mergeable VMA is taken for an item of the node:
    after a fork it may not be one yet, and is from the next scan on. ``empty``: makes the arrays of
    all mappings.
    """
    ksm = snapshot.frames["kind"].to_numpy() == FrameKind.KSM
    if "stable_nodes" not in snapshot.info.get("not_known", {}) or not ksm.any():
        return snapshot
    frame_id = np.flatnonzero(ksm)
    seen = pd.DataFrame(
        {name: snapshot.frames[name].array.take(frame_id) for name in ("pfn", "hash", "node")}
    )
    nodes = pd.DataFrame(
        {
            "node_id": np.arange(len(frame_id), dtype=np.uint32),
            "chain_id": _chains(seen, merge_across_nodes=merge_across_nodes),
            "pfn": seen["pfn"].to_numpy(),
            "frame_id": pd.array(frame_id, dtype="UInt32"),
            "node": seen["node"].to_numpy(),
            "live": np.ones(len(frame_id), np.bool_),
        }
    )
    mappings, vmas = snapshot.mappings, snapshot.vmas
    taking_part = vmas["mergeable"].to_numpy() & on_ksmds_list(snapshot)[vmas["mm_id"].to_numpy()]
    columns = (mappings[name].to_numpy() for name in ("frame_id", "vma_id", "flags"))
    frame_of_row, vma_of_row, read = columns

    def with_merged(piece: slice) -> Bytes:
        merged = ksm[frame_of_row[piece]] & taking_part[vma_of_row[piece]]
        return read[piece] | merged * np.uint8(MappingFlag.MERGED)

    flags = made(len(read), np.uint8, with_merged, empty)
    return replace(snapshot, mappings=with_columns(mappings, flags=flags), stable_nodes=nodes)


def _chains(frames: pd.DataFrame, *, merge_across_nodes: bool) -> Numbers:
    """The number of the chain of each of ``frames``, i32; -1: its content has one node alone."""
    tree = ["hash"] if merge_across_nodes else ["hash", "node"]
    group = frames.groupby(tree, sort=False, dropna=False).ngroup().to_numpy(np.int32)
    alone = np.bincount(group)[group] == 1
    return np.where(alone | frames["hash"].isna().to_numpy(), np.int32(-1), group)

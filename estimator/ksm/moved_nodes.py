"""KSM pages that have moved to another NUMA node, where each node has a stable tree of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from estimator.arrays import Ints, pieces
from estimator.ksm.frames import live_node_frames
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import rows_at


def without_moved_nodes(snapshot: Snapshot) -> Snapshot:
    """``snapshot``, where a moved KSM page that ksmd tries to merge with another has no node.

    Of trees per NUMA node (merge_across_nodes off). cmp_and_merge_page() in mm/ksm.c takes a node
    whose page has moved out of its tree, and stable_tree_search() looks for the content in the tree
    of where the page is. If that has it, and the page is mapped once, its item leaves the node to
    be merged: in vain, since page_address_in_vma() in mm/rmap.c does not find a KSM page. So it
    stays as one without a node does. Mapped more often, or alone with its content, it keeps its
    node.
    """
    leaving = _leaving(snapshot)
    if not len(leaving):
        return snapshot
    nodes = snapshot.stable_nodes
    live = nodes["live"].to_numpy() & ~nodes["frame_id"].isin(leaving).to_numpy(np.bool_)
    return replace(snapshot, stable_nodes=nodes.assign(live=live))


def _leaving(snapshot: Snapshot) -> Ints:
    """Frames whose item leaves their node.

    The first one to come to a tree that lacks its content stays.
    """
    frame, nodes = live_node_frames(snapshot), snapshot.stable_nodes
    in_use = (nodes["live"] & nodes["frame_id"].notna()).to_numpy(np.bool_)
    here, mapcount = rows_at(snapshot.frames, ("node", "mapcount"), frame)
    moved = nodes["node"].to_numpy()[in_use] != here
    if not moved.any():
        return np.zeros(0, np.int64)
    contents = snapshot.frames["hash"].array.take(frame)
    known = ~contents.isna()
    frame, moved, here, mapcount = frame[known], moved[known], here[known], mapcount[known]
    key = np.rec.fromarrays([contents[known].to_numpy(np.uint64), here])
    _, group = np.unique(key, return_inverse=True)
    settled = np.bincount(group, ~moved) > 0
    order = np.lexsort((_first_rows(snapshot, frame), moved, group))
    first = np.zeros(len(frame), np.bool_)
    first[order[np.unique(group[order], return_index=True)[1]]] = True
    leaving: Ints = frame[moved & (mapcount == 1) & (settled[group] | ~first)]
    return leaving


def _first_rows(snapshot: Snapshot, frames: Ints) -> Ints:
    """The first row of ``mappings`` of each of ``frames``: ksmd comes by in this order."""
    order = np.argsort(frames)
    found = np.full(len(frames), len(snapshot.mappings), np.int64)
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    for piece in pieces(len(frame_of_row)):
        rows = np.flatnonzero(np.isin(frame_of_row[piece], frames))
        place = order[np.searchsorted(frames, frame_of_row[piece][rows], sorter=order)]
        np.minimum.at(found, place, rows + piece.start)
    return found

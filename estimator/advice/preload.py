"""What loading before the fork would share without ksmd: pages that KSM merges between siblings.

Siblings: processes of one program (comm) in one service that one parent started, forked or exec'd
alike; and a process with those that it forked: they share frames with it, or its name. What init
started is no such family: whoever has lost its parent is a child of init, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.advice.domains import by_family
from estimator.arrays import Empty, Ints
from estimator.ksm.content_parts import rows_by_end, rows_by_frame
from estimator.ksm.credits import ends_of
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import Snapshot, vma_starts, vmas_of
from estimator.snapshot.stored_table import in_pieces

_INIT = 1
_OF_NODE = ["group", "node", "mm"]


@dataclass(frozen=True)
class Preload:
    """What loading before the fork would share of what KSM would free.

    ``groups``: one row per group of siblings with such pages, most first: unit, comm (of most of
    them), parent_pid, processes, bytes_saved. ``bytes_saved``: of all groups; None: nothing is
    known of parents (a snapshot of an older version). ``unknown_processes``: those whose parent is
    not known. ``merged_bytes``: what merging frees in all, zero-filled pages and huge pages' pieces
    left out.
    """

    groups: pd.DataFrame
    bytes_saved: int | None
    unknown_processes: int
    merged_bytes: int


def preload(snapshot: Snapshot, prediction: Prediction) -> Preload:
    """Of each stable node: how many frames of one group of siblings end there, but for one each.

    Of the frames of a group that end as one, as many stay as the process has that maps most of
    them: what a process holds twice, it would hold twice then, too. Frames that fork shares already
    are one frame. Zero-filled pages are left out: nobody loads them. That is the most: what is
    written after the fork is copied again.
    """
    size, parents = page_bytes(snapshot), snapshot.processes.get("parent_pid")
    group = None if parents is None else siblings(snapshot, prediction.empty)
    merged, saved = 0, np.zeros(len(snapshot.processes), np.int64)
    for part in _holders(snapshot, prediction):
        counts, nodes = list[pd.DataFrame](), [np.zeros(0, np.int64)]
        for pairs in part:
            merged += pairs["frame"].nunique()
            nodes.append(pairs["node"].unique())
            if group is not None:
                counts.append(_counts(pairs.assign(group=group[pairs["mm"].to_numpy()])))
        merged -= len(np.unique(np.concatenate(nodes)))
        if counts:
            of_group = _saved(counts)
            saved[of_group.index.to_numpy(np.int64)] += of_group.to_numpy(np.int64)
    merged *= size
    if parents is None or group is None:
        empty = pd.DataFrame(columns=["unit", "comm", "parent_pid", "processes", "bytes_saved"])
        return Preload(empty, None, len(snapshot.processes), merged)
    of_group = pd.Series(saved)
    found = _named(snapshot, group, of_group[of_group > 0] * size)
    return Preload(found, int(found["bytes_saved"].sum()), int(parents.isna().sum()), merged)


def _counts(pairs: pd.DataFrame) -> pd.DataFrame:
    """group, node, mm, frames: of ``pairs`` with the group of each process, as far as it has one.

    With the mm -1: how many frames they have together.
    """
    several = pairs.groupby("frame")["group"].transform("nunique") > 1
    pairs = pairs[~several & (pairs["group"] >= 0)]
    together = pairs.drop_duplicates("frame").assign(mm=-1)
    both = pd.concat([pairs, together])
    return both.groupby(_OF_NODE, as_index=False).size().rename(columns={"size": "frames"})


def _saved(counts: list[pd.DataFrame]) -> pd.Series[int]:
    """Frames by group, of ``_counts`` of some frames each, all that end on a node."""
    frames = pd.concat(counts).groupby(_OF_NODE)["frames"].sum()
    by_itself = frames.index.get_level_values("mm") >= 0
    together = frames[~by_itself].groupby(["group", "node"]).sum()
    most = frames[by_itself].groupby(["group", "node"]).max()
    saved: pd.Series[int] = (together - most).groupby("group").sum()
    return saved


def siblings(snapshot: Snapshot, empty: Empty = np.empty) -> Ints:
    """The group of siblings of each process (i64 per row of ``processes``); -1: has none.

    ``empty``: makes arrays of all mappings.
    """
    table = snapshot.processes
    parents = table["parent_pid"].to_numpy(np.int64, na_value=-1)
    row_of = {pid: row for row, pid in enumerate(table["pid"].tolist()) if pid > 0}
    for row, others in enumerate(table["sharing_pids"]):
        row_of |= dict.fromkeys(others, row)
    comm, unit = table["comm"].tolist(), units_of(table["cgroup"]).tolist()
    owner = list(range(len(table)))

    def first(row: int) -> int:
        while owner[row] != row:
            owner[row] = owner[owner[row]]
            row = owner[row]
        return row

    like: dict[tuple[int, str, str], int] = {}
    family = by_family(snapshot, empty)
    for row, parent in enumerate(parents.tolist()):
        if parent <= _INIT:
            continue
        owner[first(row)] = first(like.setdefault((parent, comm[row], unit[row]), row))
        above = row_of.get(parent, row)
        if comm[above] == comm[row] or family[above] == family[row]:
            owner[first(row)] = first(above)
    groups = np.array([first(row) for row in range(len(owner))], np.int64)
    sizes = np.bincount(groups, minlength=len(groups))
    found: Ints = np.where(sizes[groups] > 1, groups, -1) if len(groups) else groups
    return found


def _holders(snapshot: Snapshot, prediction: Prediction) -> Iterator[Iterator[pd.DataFrame]]:
    """node, frame, mm: who maps the frames with data that end on each stable node, in parts.

    All that end on one node are in one part, which comes some frames at a time.
    """
    found, frame_of_row = prediction.credits, prediction.freed.frame_of_row
    node = ends_of(found.given_up, found.stable_node, prediction.empty)
    for piece, some in in_pieces(snapshot.frames, ("flags",)):
        node[piece][(some["flags"].to_numpy() & FrameFlag.ZERO) != 0] = -1
    starts = vma_starts(snapshot)
    mm_of_vma = snapshot.vmas["mm_id"].to_numpy()

    def pairs(rows: Ints) -> pd.DataFrame:
        rows = rows[node[frame_of_row[rows]] >= 0]
        frame = frame_of_row[rows]
        mm = mm_of_vma[vmas_of(starts, rows)]
        columns = {"node": node[frame], "frame": frame, "mm": mm}
        return pd.DataFrame(columns).astype(np.int64).drop_duplicates()

    parts = rows_by_end(lambda _, frame: node.take(frame), frame_of_row, prediction.empty)
    for part in parts:
        yield map(pairs, rows_by_frame(part, frame_of_row))


def _named(snapshot: Snapshot, group: Ints, saved: pd.Series[int]) -> pd.DataFrame:
    """The groups as ``Preload.groups``."""
    table = snapshot.processes[["comm", "cgroup", "parent_pid"]].assign(group=group)
    rows = []
    for number, amount in saved.sort_values(ascending=False, kind="stable").items():
        members = table[table["group"] == number]
        most = members.groupby(["cgroup", "comm", "parent_pid"], sort=False, dropna=False).size()
        cgroup, comm, parent = most.index[int(most.to_numpy().argmax())]
        unit = units_of(pd.Series([cgroup])).iloc[0]
        rows.append((unit, comm, int(parent), len(members), int(amount)))
    columns = ["unit", "comm", "parent_pid", "processes", "bytes_saved"]
    return pd.DataFrame(rows, columns=columns)

"""What the model says: the counters ksmd would show at rest, and what became of every mapping."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.ksm.policy import Policy


class Outcome(enum.IntEnum):
    """What became of one mapping (u8)."""

    NOT_CANDIDATE = 0  # ksmd gives it no rmap_item
    UNKNOWN = 1  # a candidate whose content could not be read: in no counter
    UNSHARED = 2  # its rmap_item waits in the unstable tree
    VOLATILE = 3  # it has an rmap_item that is in neither tree
    MERGED = 4  # its rmap_item is on a stable node
    ZERO_PAGE = 5  # ksmd replaced it by the zero page (use_zero_pages): no rmap_item
    SPLIT_AWAY = 6  # the split of its folio mapped the zero page instead: in no counter


@dataclass(frozen=True)
class Prediction:
    """The state of KSM at rest under one policy.

    ``counters``: the files of /sys/kernel/mm/ksm, plus ``ksm_rmap_items`` (pages; general_profit
    in bytes). ``physical``: ``frames_before``, ``frames_after``, ``bytes_saved`` and
    ``net_bytes_saved`` (less rmap_items, stable nodes, chains and mm slots).

    ``processes``: one row per selected mm: mm_id, pid, comm, cgroup, uid, ksm_rmap_items,
    ksm_merging_pages, ksm_zero_pages, ksm_process_profit (bytes), pages_unshared, pages_volatile,
    unknown_pages. ``vmas``: one row per VMA of a selected mm that was considered: vma_id, mm_id,
    pid, start, end, name, ksm_rmap_items, ksm_merging_pages, ksm_zero_pages, unknown_pages, and
    ``excluded_by`` (null: a candidate VMA). ``cgroups``: sums of ``processes`` by cgroup.

    ``outcome``: u8 ``Outcome`` per row of ``snapshot.mappings``. ``stable_node``: i64 per row of
    ``snapshot.mappings``, the number of the stable node (equal for all that share one frame in
    the end), -1 unless MERGED. ``content``: i64 per row of ``snapshot.frames``, equal for frames
    with the same bytes (and the same node where trees are per node), -1 where unknown.
    """

    policy: Policy
    kernel: dict[str, Any]
    counters: dict[str, int]
    physical: dict[str, int]
    coverage: dict[str, Any]
    warnings: list[str]
    processes: pd.DataFrame
    vmas: pd.DataFrame
    cgroups: pd.DataFrame
    excluded: pd.DataFrame = field(repr=False)  # excluded_by, vmas, anonymous_pages
    outcome: npt.NDArray[np.uint8] = field(repr=False)
    stable_node: npt.NDArray[np.int64] = field(repr=False)
    content: npt.NDArray[np.int64] = field(repr=False)

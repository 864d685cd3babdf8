"""What the model says: the counters ksmd would show at rest, and what became of every mapping."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, Mask, Rows, at, made
from estimator.ksm.credits import Credits, Freed, credits_of
from estimator.ksm.policy import Policy
from estimator.ksm.sharing import By, sums_between
from estimator.ksm.sharing import pairs as sharing_pairs
from estimator.ksm.top_contents import contents as top_contents
from estimator.snapshot.snapshot import Snapshot

if TYPE_CHECKING:
    from estimator.ksm.coverage import Coverage
    from estimator.ksm.khugepaged import Bounds


class Outcome(enum.IntEnum):
    """What became of one mapping (u8)."""

    NOT_CANDIDATE = 0  # ksmd gives it no rmap_item
    UNKNOWN = 1  # a candidate whose content could not be read: in no counter
    UNSHARED = 2  # its rmap_item waits in the unstable tree
    VOLATILE = 3  # it has an rmap_item that is in neither tree
    MERGED = 4  # its rmap_item is on a stable node
    ZERO_PAGE = 5  # ksmd replaced it by the zero page (use_zero_pages): no rmap_item
    SPLIT_AWAY = 6  # the split of its folio mapped the zero page instead: in no counter


_LEAVING: Mask = np.isin(
    np.arange(len(Outcome)), (Outcome.MERGED, Outcome.ZERO_PAGE, Outcome.SPLIT_AWAY)
)


@dataclass(frozen=True)
class Prediction:
    """The state of KSM at rest under one policy.

    ``snapshot``: the one that it is of.
    ``origin``: of what picture, see ``estimator.snapshot.identity.origin``.
    ``counters``: the files of /sys/kernel/mm/ksm, plus ``ksm_rmap_items`` (pages; general_profit
    in bytes), as read with smart_scan off; of a part of the processes, ksm_zero_pages is the sum of
    theirs. ``physical``: ``frames_before``, ``frames_after``,
    ``frames_freed``, ``bytes_saved``, the overhead in bytes, and ``net_bytes_saved`` (less
    rmap_items, stable nodes, chains and mm slots that are not there yet). ``scans``: full scans
    until the counters stay the same. ``smart_scan``: the kernel skips pages that did not merge.
    ``khugepaged``: what pages_sharing can be where it collapses pages again; None: it can't.

    ``processes``: one row per selected mm: mm_id, pid, comm, cgroup, uid, sharing_pids (a tuple:
    further thread groups with the mm), ksm_rmap_items, ksm_merging_pages, ksm_zero_pages,
    pages_unshared, pages_volatile, smaps_ksm_pages, unknown_pages, ksm_process_profit (bytes).
    ``vmas``: one row per VMA of a selected mm: vma_id, mm_id, pid, start, end, name,
    ksm_rmap_items, ksm_merging_pages, ksm_zero_pages, pages_unshared, pages_volatile,
    smaps_ksm_pages (what smaps shows as "KSM:"), split_away_pages, unknown_pages, and
    ``excluded_by`` (null: a candidate VMA). Its ksm_zero_pages are mappings; of mms and of the
    system they go on from what the kernel counts, which can be another number
    (``zero_counters.py``).
    ``cgroups``: sums of ``processes`` by cgroup.
    ``excluded``: excluded_by, vmas, anonymous_pages.

    ``outcome``: u8 ``Outcome`` per row of ``snapshot.mappings``. ``stable_node``: i32 per row of
    ``snapshot.mappings``, the frame_id of the KSM page that it maps in the end, -1 unless MERGED
    (beyond the last frame_id: a page that exists only after unmerging, see ``unmerge.py``).
    ``content``: i32 per row of ``snapshot.frames``, equal for frames with the same bytes (and the
    same node where trees are per node), -1 where unknown. ``empty``: makes the arrays of all
    mappings and frames, also for what is worked out from this.
    """

    snapshot: Snapshot = field(repr=False)
    policy: Policy
    kernel: dict[str, Any]
    origin: dict[str, Any]
    counters: dict[str, int]
    physical: dict[str, int]
    coverage: Coverage
    scans: int
    smart_scan: bool
    khugepaged: Bounds | None
    warnings: list[str]
    processes: pd.DataFrame
    vmas: pd.DataFrame
    cgroups: pd.DataFrame
    excluded: pd.DataFrame = field(repr=False)
    outcome: npt.NDArray[np.uint8] = field(repr=False)
    stable_node: npt.NDArray[np.int32] = field(repr=False)
    content: npt.NDArray[np.int32] = field(repr=False)
    freed: Freed = field(repr=False)
    empty: Empty = field(default=np.empty, repr=False)

    @property
    def scanned(self) -> Mask:
        """Which mappings ksmd visits and can read (bool per row of ``mappings``)."""
        return made(len(self.outcome), np.bool_, self.is_scanned, self.empty)

    @property
    def converted(self) -> Mask:
        """Which mappings stop mapping the frame they map now (bool per row of ``mappings``)."""
        return made(len(self.outcome), np.bool_, self.is_converted, self.empty)

    def is_scanned(self, rows: Rows) -> Mask:
        """``scanned`` of some rows."""
        scanned: Mask = at(self.outcome, rows) > Outcome.UNKNOWN
        return scanned

    def is_converted(self, rows: Rows) -> Mask:
        """``converted`` of some rows."""
        return _LEAVING.take(at(self.outcome, rows))

    @cached_property
    def credits(self) -> Credits:
        """Who is credited with the frames that become free; worked out when first asked for."""
        return credits_of(
            self.freed, self.stable_node, self.is_converted, self.is_scanned, self.empty
        )

    @cached_property
    def between_mms(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``sums_between`` of every two mms; worked out when first asked for."""
        mms = len(self.snapshot.processes)
        return sums_between(self, np.arange(mms), mms)

    def forget(self) -> None:
        """Give back the memory of what is worked out when first asked for; it can be again."""
        for name in ("credits", "between_mms"):
            vars(self).pop(name, None)

    def give_back(self) -> None:
        """Give back the memory of all that is said of rows and frames: to ask is an error then.

        What is counted stays: ``counters``, ``physical``, ``coverage``, the tables.
        """
        self.forget()
        rows = ("outcome", "stable_node", "content", "freed")
        vars(self).update(dict.fromkeys(rows, _GivenBack()))

    @property
    def has_rows(self) -> bool:
        """Whether what is said of rows and frames is still there."""
        return not isinstance(self.outcome, _GivenBack)

    def contents(self, limit: int = 100) -> pd.DataFrame:
        """The ``limit`` most duplicated contents: those that free the most frames, biggest first.

        Contents that lie in the same places in the same numbers make one row, so that a thousand
        pages preloaded by every worker are one row and not a thousand. Columns: contents (how
        many), frames and mappings (of each of them: those that ksmd takes away from their holders),
        saved_pages (f64, of all), zero (nothing but zero bytes), holders (list of dicts: comm,
        unit, label of the VMAs, mappings; most mappings first), and of one mapping to look at pid,
        label and address (u64).
        """
        return top_contents(self, limit)

    def pairs(self, by: By = "process") -> pd.DataFrame:
        """Who saves how much with whom, biggest saving first.

        One row per pair of processes, programs (of one service) or services that save something
        together, each with itself among them. Columns: pid_a, comm_a, unit_a, pid_b, comm_b,
        unit_b, of which "program" has comm and unit and "service" the unit alone, and saved_pages
        (f64). The columns of b are null where no partner is needed: zero-filled pages, pieces of
        huge pages that nobody maps; copies made by break_cow() are less than 0. saved_pages adds up
        to ``physical["frames_freed"]``; how it is split: ``estimator.ksm.sharing``. Of more than
        2,000 the smallest are one, "(others)", with pid 0.
        """
        return sharing_pairs(self, by)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a copy or a pickle works the rest out again, in memory."""
        kept = (each.name for each in fields(self) if each.name != "empty")
        return {name: getattr(self, name) for name in kept}

    def unmerged_readings(self) -> list[dict[str, int]]:
        """What pages_unshared and pages_volatile can show at rest; their sum never differs.

        With smart_scan a page that did not merge is skipped in most scans, and a skipped page is
        taken out of the unstable tree (should_skip_rmap_item() in mm/ksm.c). So unshared pages
        show as volatile after any scan but the 2nd, 3rd, 4th, 6th, 9th, 14th, 23rd, 32nd ...
        Those that break_cow() made as new (7.3) are out of step with the rest.
        """
        names = ("pages_unshared", "pages_volatile")
        readings = [{name: self.counters[name] for name in names}]
        if self.smart_scan:
            total = sum(readings[0].values())
            readings.append({"pages_unshared": 0, "pages_volatile": total})
        return readings

    def _repr_html_(self) -> str:
        """The counters, in a notebook."""
        return pd.Series(self.counters | self.physical, name="predicted").to_frame().to_html()


class _GivenBack:
    """In the place of arrays that are gone."""

    def _gone(self, *_: object) -> NoReturn:
        raise RuntimeError("the rows of this prediction were given back")

    __getattr__ = __getitem__ = __len__ = __array__ = _gone

"""Which processes, VMAs and mappings take part: the pages that ksmd would give an rmap_item."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, Ints, Mask, Numbers, numbers_where, take
from estimator.errors import UsageError
from estimator.ksm.policy import Policy
from estimator.ksm.rules import Rules
from estimator.snapshot.flags import MappingFlag, Unknown
from estimator.snapshot.names import is_below
from estimator.snapshot.snapshot import Snapshot, vma_starts
from estimator.snapshot.stored_table import in_pieces

NOT_MERGEABLE = "not VM_MERGEABLE"
NOT_ON_LIST = "its mm is not on ksmd's list"


@dataclass(frozen=True)
class Candidates:
    """Who takes part.

    ``mms``, ``vmas``: bool per row of the snapshot's tables: selected mms, candidate VMAs.
    ``slots``: which of ``mms`` have an mm slot, being on ksmd's list (or would be, if opted in).
    ``excluded_by``: object per VMA, why it is no candidate; None for candidates and for VMAs of
    processes that were not selected. ``vma_starts``: i64, first row of ``mappings`` of every VMA,
    and one past the end. ``rows``: i32, the rows of ``mappings`` that are candidates, in scan
    order; None: all of them. ``frame``: u32, their frame_id. ``changing``: i32, rows that would be
    candidates, but keep changing. ``written``: i32, all rows that keep changing, candidates or not.
    """

    mms: Mask
    slots: Mask
    vmas: Mask
    excluded_by: npt.NDArray[np.object_]
    vma_starts: Ints
    rows: npt.NDArray[np.int32] | None
    frame: npt.NDArray[np.uint32]
    changing: npt.NDArray[np.int32]
    written: Numbers

    def before(self, row: int) -> int:
        """How many candidates there are before ``row`` of the mappings."""
        return row if self.rows is None else int(np.searchsorted(self.rows, row))

    def row_numbers(self, part: slice = slice(None)) -> npt.NDArray[np.int32]:
        """``part`` of ``rows``, as i32 also where it is None."""
        if self.rows is None:
            return np.arange(*part.indices(len(self.frame)), dtype=np.int32)
        return self.rows[part]


def on_ksmds_list(snapshot: Snapshot) -> Mask:
    """bool per mm: whether it is on the list ksm_mm_head.

    Where that is not known: whether it has a VM_MERGEABLE VMA, since ksm_madvise() in mm/ksm.c
    calls __ksm_enter() for the first one.
    """
    order = snapshot.processes["scan_order"]
    listed: Mask = order.to_numpy(np.int32, na_value=-1) >= 0
    if (unknown := order.isna().to_numpy()).any():
        vmas = snapshot.vmas
        with_some = np.bincount(
            vmas["mm_id"].to_numpy()[vmas["mergeable"].to_numpy()], minlength=len(listed)
        )
        listed |= unknown & (with_some > 0)
    return listed


def find_candidates(
    snapshot: Snapshot,
    policy: Policy,
    rules: Rules,
    changed: Mask | None = None,
    empty: Empty = np.empty,
) -> Candidates:
    """The candidates under ``policy``. ``changed``: bool per mapping, see ``changes.py``.

    ``empty``: makes the arrays of ``Candidates`` that are of mappings.

    A VMA takes part if it is VM_MERGEABLE and has an anon_vma (scan_get_next_rmap_item() in
    mm/ksm.c), in an mm on ksmd's list; in scope "all" also if vma_ksm_compatible() and its mm
    is selected. In it every present mapping of an anonymous page counts, PROT_NONE ones only where
    the kernel's walker finds them. Raises UsageError for selectors that match nothing.
    """
    mms = select_mms(snapshot.processes, policy)
    listed = on_ksmds_list(snapshot)
    vmas = snapshot.vmas
    mm_of_vma = vmas["mm_id"].to_numpy()
    mergeable = vmas["mergeable"].to_numpy()
    has_anon_vma = vmas["has_anon_vma"].to_numpy()
    selected = mms[mm_of_vma]
    excluded_by = np.full(len(vmas), None, dtype=object)
    if policy.scope == "all":
        open_to_merging = mergeable | vmas["compatible"].to_numpy()
        shut = selected & ~open_to_merging
        excluded_by[shut] = vmas["excluded_by"].to_numpy(dtype=object)[shut]
    else:
        open_to_merging = mergeable & listed[mm_of_vma]
        excluded_by[selected & ~open_to_merging] = NOT_MERGEABLE
        excluded_by[selected & ~listed[mm_of_vma]] = NOT_ON_LIST
    taking_part = selected & open_to_merging & has_anon_vma
    starts = vma_starts(snapshot)
    frame = snapshot.mappings["frame_id"].to_numpy()
    takes_part = _takes_part(snapshot.mappings, taking_part, starts, rules)
    rows, changing, written = None, np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
    if changed is not None and changed.any():
        written = numbers_where(changed, empty)
        changing = numbers_where(takes_part & changed, empty)
        takes_part &= ~changed
    if not takes_part.all():
        rows = numbers_where(takes_part, empty)
        frame = take(frame, rows, empty)
    slots = mms if policy.scope == "all" else mms & listed
    return Candidates(mms, slots, taking_part, excluded_by, starts, rows, frame, changing, written)


def _takes_part(mappings: pd.DataFrame, vmas: Mask, starts: Ints, rules: Rules) -> Mask:
    takes_part: Mask = np.repeat(vmas, np.diff(starts))
    if not rules.scans_prot_none:
        for piece, some in in_pieces(mappings, ("flags",)):
            takes_part[piece] &= (some["flags"].to_numpy() & MappingFlag.PROT_NONE) == 0
    return takes_part


def select_mms(processes: pd.DataFrame, policy: Policy) -> Mask:
    """Bool per row of ``processes``: matches every selector that is given.

    A cgroup selects its descendants too; names and cgroups may be shell patterns, whose * matches
    a / as well. An mm shared by several thread groups (CLONE_VM) is
    selected by the pid of any of them. Raises UsageError, naming what exists, for a value that
    matches no process.
    """
    selected = np.ones(len(processes), dtype=bool)
    if policy.pids:
        pids = processes["pid"].to_numpy()
        sharing = sharing_pids(processes)
        matches = [
            (pids == pid) | np.fromiter((pid in s for s in sharing), bool, len(sharing))
            for pid in policy.pids
        ]
        selected &= _any_of("pid", policy.pids, matches, pids[pids >= 0])
    if policy.comms:
        comms = processes["comm"]
        matches = [_named(comms, comm) for comm in policy.comms]
        selected &= _any_of("comm", policy.comms, matches, comms)
    if policy.cgroups:
        cgroups = processes["cgroup"]
        matches = [_below(cgroups, cgroup) for cgroup in policy.cgroups]
        selected &= _any_of("cgroup", policy.cgroups, matches, cgroups)
    if policy.uids:
        uids = processes["uid"].to_numpy()
        selected &= _any_of("uid", policy.uids, [uids == u for u in policy.uids], uids)
    if not selected.any() and len(selected):
        raise UsageError("no process matches all of the given selectors at once")
    return selected


def _named(names: pd.Series[str], pattern: str) -> Mask:
    """Which of ``names`` are ``pattern``, letter by letter or as a shell pattern."""
    matches = re.compile(fnmatch.translate(pattern)).match
    mask: Mask = ((names == pattern) | names.map(matches).notna()).to_numpy(np.bool_)
    return mask


def _below(cgroups: pd.Series[str], pattern: str) -> Mask:
    """Which of ``cgroups`` ``pattern`` names, and what lies below these."""
    if not pattern:
        raise UsageError("an empty cgroup names none", hint="the root, with all below it, is /")
    path = "/" + pattern.strip("/")
    below = is_below(cgroups, path).to_numpy(np.bool_)
    return _named(cgroups, path) | _named(cgroups, path.rstrip("/") + "/*") | below


def sharing_pids(processes: pd.DataFrame) -> list[tuple[int, ...]]:
    """Of each row of ``processes``: the pids of further thread groups with its mm (CLONE_VM)."""
    return [tuple(map(int, pids)) for pids in processes["sharing_pids"]]


def _any_of(
    what: str, wanted: Sequence[object], matches: Sequence[Mask], existing: Iterable[object]
) -> Mask:
    for value, match in zip(wanted, matches, strict=True):
        if not match.any():
            raise UsageError(
                f"no process of the snapshot has {what} {value}",
                hint=f"it has {what} {_closest(value, existing)}",
            )
    any_match: Mask = np.logical_or.reduce(matches)
    return any_match


def _closest(value: object, existing: Iterable[object], most: int = 5) -> str:
    if isinstance(value, int):
        numbers = sorted({int(str(e)) for e in existing}, key=lambda e: (abs(e - value), e))
        names, total = [str(n) for n in numbers[:most]], len(numbers)
    else:
        known = sorted({str(e) for e in existing})
        names = difflib.get_close_matches(str(value), known, most, cutoff=0.3)
        names, total = names or known[:most], len(known)
    more = f" and {total - len(names)} others" if total > len(names) else ""
    return ", ".join(names) + more


def unknown_counts(frames: pd.DataFrame, mappings_per_frame: Ints) -> dict[str, int]:
    """Candidate mappings of frames without a hash, by reason in lower case."""
    unknown = frames["unknown"].to_numpy()
    counts = np.bincount(unknown, weights=mappings_per_frame, minlength=len(Unknown))
    return {r.name.lower(): int(counts[r]) for r in Unknown if r != Unknown.HASHED and counts[r]}

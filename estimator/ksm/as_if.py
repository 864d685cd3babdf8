"""What if memory that KSM can't merge were private anonymous memory of base pages.

The rules stay where they are: the tables of the snapshot are read differently, before anything is
asked of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from estimator.arrays import Bytes, Mask
from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm.policy import AS_IF, Policy
from estimator.ksm.vm_flags import VALUES
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag
from estimator.snapshot.format import CONTENTS
from estimator.snapshot.snapshot import Snapshot
from estimator.units import plural

_PRIVATE, _NO_HUGETLB, _NO_FILE, _NO_THP = AS_IF
_NEEDS = {_PRIVATE: "all", _NO_HUGETLB: "all", _NO_FILE: "all,file"}  # contents
_SHARED = np.uint64(VALUES["shared"] | VALUES["mayshare"])
_OF_HUGETLB = np.uint64(VALUES["hugetlb"] | VALUES["dontexpand"])  # hugetlbfs_file_mmap()
_OF_A_FOLIO = np.uint32(FrameFlag.LARGE)
_KEPT_FLAGS = np.uint32(
    FrameFlag.ZERO | FrameFlag.MLOCKED | FrameFlag.PINNED | FrameFlag.HWPOISON
)  # of a page that is not anonymous
_PIN = np.int32(1024)  # GUP_PIN_COUNTING_BIAS


def as_if(snapshot: Snapshot, what: Collection[str]) -> Snapshot:
    """``snapshot`` read as if its memory were other than it is, for ``predict`` and all the rest.

    ``what``: names of ``AS_IF``. Each lifts one thing that keeps ksmd away; of a page that has two
    of them (a file that is mapped MAP_SHARED, shared hugetlb) both have to be lifted:

    - private: somebody maps it MAP_SHARED; that is all of it for tmpfs, memfd and System V.
    - no-hugetlb: it is of hugetlb.
    - no-file: it is page cache of a file, on tmpfs too, that is mapped MAP_PRIVATE.
    - no-thp: each piece of a huge page is a page of its own, and khugepaged makes no new ones.

    A frame stays one frame. The first process that maps it, in ksmd's order, has it as its own, the
    others as if forked from that one: a guest's memory is not there twice because a vhost-user
    daemon maps it too. Who pinned it pins it still. A VMA that is opened so is compatible; it is
    VM_MERGEABLE where its process had opted in by prctl. madvise(MADV_MERGEABLE) leaves no trace on
    such a VMA (ksm_madvise() in mm/ksm.c), so in scope "enabled" it does not count.

    ``info["as_if"]`` of what is returned says ``what``, and of how many ``mappings`` and ``frames``
    that were not anonymous. Raises UsageError for an unknown name, CannotAnswerError if such
    contents were not collected.
    """
    asked = [name for name in AS_IF if name in what]
    if unknown := sorted(set(what) - set(AS_IF)):
        raise UsageError(f"as if {unknown[0]!r} is no question; there are {', '.join(AS_IF)}")
    if not asked:
        return snapshot
    if "as_if" in snapshot.info:
        raise UsageError("the snapshot is read as if already: start from the one collected")
    _require_contents(snapshot, asked)
    before = len(snapshot.mappings), len(snapshot.frames)
    if _NO_THP in asked:
        snapshot = _without_folios(snapshot)
    if set(asked) & set(_NEEDS):
        snapshot = _with_others(snapshot, asked)
    about = {
        "what": asked,
        "mappings": len(snapshot.mappings) - before[0],
        "frames": len(snapshot.frames) - before[1],
    }
    info = snapshot.info | {"as_if": about}
    if _NO_THP in asked:
        info |= {"thp_enabled": "never", "thp_orders": None}
    return replace(snapshot, info=info, other_mappings=None, other_frames=None)


def read_as(snapshot: Snapshot, policy: Policy) -> Policy:
    """``policy`` with what ``snapshot`` is read as.

    Raises UsageError if the policy says something else.
    """
    what = tuple(snapshot.info.get("as_if", {}).get("what", ()))
    if policy.as_if not in ((), what):
        raise UsageError(
            f"the snapshot is not read as if {', '.join(policy.as_if)}",
            hint=f"snapshot = as_if(snapshot, {policy.as_if!r})",
        )
    return replace(policy, as_if=what)


def assumptions(info: Mapping[str, Any], policy: Policy) -> list[str]:
    """What an answer from a snapshot with ``info`` takes for granted, in sentences."""
    about = info.get("as_if")
    if not about:
        return []
    found = []
    if set(about["what"]) & set(_NEEDS):
        pages = plural(about["mappings"], "page")
        text = (
            f"A what-if: {pages} that processes map on {plural(about['frames'], 'frame')} of other "
            "than anonymous memory are taken for anonymous pages that were written. A frame that "
            "several processes map stays one, as after fork. Of such memory, what no process has "
            "touched through a mapping is not in the numbers."
        )
        if policy.scope == "enabled":
            text += (
                " Who opted in by prctl is in with it; madvise leaves no trace on shared memory "
                "and hugetlb: who opted in so is not."
            )
        found.append(text)
    if _NO_THP in about["what"]:
        found.append(
            "A what-if: every piece of a huge page is taken for a page that was written. Without "
            "huge pages a process may never have got those that it does not use, most of all "
            "zero-filled ones; of a pinned huge page all pieces count as pinned."
        )
    return found


def _require_contents(snapshot: Snapshot, asked: list[str]) -> None:
    """Raise CannotAnswerError unless the contents that ``asked`` is about were collected."""
    needed = max((_NEEDS[name] for name in asked if name in _NEEDS), key=CONTENTS.index, default="")
    again = f"collect again with --contents {needed}" if needed else "collect again without that"
    if snapshot.info.get("without_contents"):
        raise CannotAnswerError(
            f"--as-if {asked[0]} compares contents, and they were left out of this snapshot "
            "(--without-contents)",
            hint=again,
        )
    there = snapshot.info.get("contents", CONTENTS[0])
    if not needed:
        return
    if CONTENTS.index(there) < CONTENTS.index(needed):
        lacking = next(
            name
            for name in asked
            if CONTENTS.index(_NEEDS.get(name, there)) > CONTENTS.index(there)
        )
        raise CannotAnswerError(
            f"--as-if {lacking} needs contents that this snapshot does not have: it was collected "
            f"with --contents {there}",
            hint=again,
        )


def _without_folios(snapshot: Snapshot) -> Snapshot:
    """Every piece of a folio as a page; what holds the folio holds each of them."""
    frames = snapshot.frames
    large = (frames["flags"].to_numpy() & _OF_A_FOLIO) != 0
    if not large.any():
        return snapshot
    table = frames.copy()
    flags, mapcount = (frames[name].to_numpy() for name in ("flags", "mapcount"))
    swapcache = (flags & FrameFlag.SWAPCACHE) != 0
    pages = np.left_shift(np.int32(1), frames["order"].to_numpy().astype(np.int32))
    held = frames["refcount"].to_numpy() - frames["folio_mapcount"].to_numpy()
    held = held - np.where(swapcache, pages - 1, 0)
    table["refcount"] = np.where(large, mapcount + held, frames["refcount"]).astype(np.int32)
    table["folio_mapcount"] = np.where(large, mapcount, frames["folio_mapcount"]).astype(np.int32)
    table["flags"] = flags & ~_OF_A_FOLIO
    table["order"] = np.uint8(0)
    table["head_pfn"] = table["pfn"]
    mappings = snapshot.mappings
    small = mappings["flags"].to_numpy() & np.uint8(0xFF & ~MappingFlag.HUGE)
    return replace(snapshot, frames=table, mappings=mappings.assign(flags=small))


def _with_others(snapshot: Snapshot, asked: list[str]) -> Snapshot:
    """The rows of ``other_mappings`` and ``other_frames`` that are lifted, among the rest."""
    mappings, frames = snapshot.other_mappings, snapshot.other_frames
    if mappings is None or frames is None:
        raise UsageError("the other tables of this snapshot were passed over when it was opened")
    vmas = snapshot.vmas
    vma, frame = mappings["vma_id"].to_numpy(), mappings["frame_id"].to_numpy()
    shared = np.zeros(len(frames), np.bool_)
    shared[frame[((vmas["vm_flags"].to_numpy() & _SHARED) != 0)[vma]]] = True
    lifted = _lifted(frames["kind"].to_numpy(), shared, asked)
    rows = np.flatnonzero(lifted[frame])
    opened = _unread(vmas, asked)
    opened[vma[rows]] = True
    number = np.cumsum(lifted, dtype=np.uint32) - np.uint32(1)
    more = mappings.iloc[rows].assign(frame_id=number[frame[rows]])
    pages = _as_anonymous(frames[lifted], more["frame_id"].to_numpy())
    return _merged(replace(snapshot, vmas=_opened(snapshot, opened)), more, pages)


def _unread(vmas: pd.DataFrame, asked: list[str]) -> Mask:
    """The VMAs to open of which page tables could not be read: what they map is not known."""
    flags = vmas["vm_flags"].to_numpy()
    shared, hugetlb = (flags & _SHARED) != 0, (flags & np.uint64(VALUES["hugetlb"])) != 0
    lifted = np.where(shared, _PRIVATE in asked, hugetlb | (_NO_FILE in asked))
    lifted &= ~hugetlb | (_NO_HUGETLB in asked)
    without_anonymous = ~vmas["has_anon_vma"].to_numpy() | hugetlb
    unread: Mask = lifted & without_anonymous & (vmas["unknown_pages"].to_numpy() > 0)
    return unread


def _lifted(kind: Bytes, shared: Mask, asked: list[str]) -> Mask:
    """Which frames have nothing left that keeps ksmd away, by ``kind``; ``shared``: MAP_SHARED."""
    wanted = {name: np.bool_(name in asked) for name in AS_IF}
    on_tmpfs = (kind == FrameKind.SHMEM) & (shared | wanted[_NO_FILE])
    hugetlb = (kind == FrameKind.HUGETLB) & wanted[_NO_HUGETLB]
    file = (kind == FrameKind.FILE) & wanted[_NO_FILE]
    lifted: Mask = (on_tmpfs | hugetlb | file) & (wanted[_PRIVATE] | ~shared)
    return lifted


def _as_anonymous(frames: pd.DataFrame, frame_of_row: Any) -> pd.DataFrame:
    """``frames`` as small anonymous pages, held by their mappings and by what has pinned them."""
    found = np.bincount(frame_of_row, minlength=len(frames)).astype(np.int32)
    counted = frames["mapcount"].to_numpy()
    hugetlb = frames["kind"].to_numpy() == FrameKind.HUGETLB  # its count is of the huge page
    mapcount = np.where(hugetlb, found, np.maximum(found, counted)).astype(np.int32)
    flags = frames["flags"].to_numpy() & _KEPT_FLAGS
    pinned = (flags & FrameFlag.PINNED) != 0
    flags |= np.uint32(FrameFlag.LRU | FrameFlag.SWAPBACKED)
    flags |= np.where(pinned, np.uint32(FrameFlag.ANON_EXCLUSIVE), np.uint32(0))
    return frames.assign(
        kind=np.uint8(FrameKind.ANONYMOUS),
        flags=flags,
        order=np.uint8(0),
        head_pfn=frames["pfn"],
        mapcount=mapcount,
        refcount=(mapcount + pinned * _PIN).astype(np.int32),
        folio_mapcount=mapcount,
        batch_references=pd.array(np.zeros(len(frames), np.uint8), dtype="UInt8"),
    )


def _opened(snapshot: Snapshot, opened: Mask) -> pd.DataFrame:
    """The table of VMAs, those where ``opened`` is true as private, ordinary, anonymous ones."""
    vmas = snapshot.vmas
    merge_any = snapshot.processes["merge_any"].to_numpy(np.bool_, na_value=False)
    flags = vmas["vm_flags"].to_numpy()
    hugetlb = (flags & np.uint64(VALUES["hugetlb"])) != 0
    lifted = np.where(hugetlb, _SHARED | _OF_HUGETLB, _SHARED)
    excluded_by = vmas["excluded_by"].copy()
    excluded_by[opened] = None
    return vmas.assign(
        vm_flags=np.where(opened, flags & ~lifted, flags),
        mergeable=vmas["mergeable"] | (opened & merge_any[vmas["mm_id"].to_numpy()]),
        compatible=vmas["compatible"] | opened,
        excluded_by=excluded_by,
        has_anon_vma=vmas["has_anon_vma"] | opened,
    )


def _merged(snapshot: Snapshot, mappings: pd.DataFrame, frames: pd.DataFrame) -> Snapshot:
    """``snapshot`` with further rows; ``frame_id`` of ``mappings`` is the row of ``frames``."""
    have = len(snapshot.frames)
    all_frames = pd.concat([snapshot.frames, frames], ignore_index=True)
    by_pfn = np.argsort(all_frames["pfn"].to_numpy(), kind="stable")
    number = np.empty(len(by_pfn), np.uint32)
    number[by_pfn] = np.arange(len(by_pfn), dtype=np.uint32)
    mappings = mappings.assign(frame_id=mappings["frame_id"].to_numpy() + np.uint32(have))
    rows = pd.concat([snapshot.mappings, mappings], ignore_index=True)
    rows["frame_id"] = number[rows["frame_id"].to_numpy()]
    order = np.lexsort((rows["page_index"].to_numpy(), rows["vma_id"].to_numpy()))
    nodes = snapshot.stable_nodes.copy()
    known = nodes["frame_id"].notna()
    nodes.loc[known, "frame_id"] = number[nodes["frame_id"][known].to_numpy(np.int64)]
    return replace(
        snapshot,
        mappings=rows.iloc[order].reset_index(drop=True),
        frames=all_frames.iloc[by_pfn].reset_index(drop=True),
        stable_nodes=nodes,
    )

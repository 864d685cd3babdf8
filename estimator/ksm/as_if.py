"""What if memory that KSM can't merge were private anonymous memory of base pages.

The rules stay where they are: the tables of the snapshot are read differently, before anything is
asked of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from estimator.arrays import (
    Bytes,
    Empty,
    Mask,
    Numbers,
    Words,
    count,
    made,
    numbers_where,
    pieces,
    take,
)
from estimator.errors import CannotAnswerError, UsageError
from estimator.ksm.policy import AS_IF, Policy
from estimator.ksm.vm_flags import VALUES
from estimator.snapshot.changes import start_of_vmas
from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag
from estimator.snapshot.format import CONTENTS
from estimator.snapshot.joined import (
    IntegerColumns,
    Rows,
    counted,
    joined,
    merged_order,
    with_columns,
)
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces
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


def as_if(snapshot: Snapshot, what: Collection[str], empty: Empty = np.empty) -> Snapshot:
    """``snapshot`` read as if its memory were other than it is, for ``predict`` and all the rest.

    ``empty``: makes the columns of mappings and frames, and what they are made with. ``what``:
    names of ``AS_IF``. Each lifts one thing that keeps ksmd away; of a page that has two
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
        snapshot = _without_folios(snapshot, empty)
    if set(asked) & set(_NEEDS):
        snapshot = _with_others(snapshot, asked, empty)
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


def _without_folios(snapshot: Snapshot, empty: Empty) -> Snapshot:
    """Every piece of a folio as a page; what holds the folio holds each of them."""
    frames, mappings = snapshot.frames, snapshot.mappings
    names = ("flags", "order", "mapcount", "refcount", "folio_mapcount")
    columns = {"flags": empty(len(frames), np.uint32), "order": empty(len(frames), np.uint8)}
    columns |= {name: empty(len(frames), np.int32) for name in ("refcount", "folio_mapcount")}
    columns["order"][:] = 0
    any_large = False
    for piece, some in in_pieces(frames, names):
        flags, order, mapcount, refcount, of_folio = (some[name].to_numpy() for name in names)
        large = (flags & _OF_A_FOLIO) != 0
        pages = np.left_shift(np.int32(1), order.astype(np.int32))
        held = refcount - of_folio
        held = held - np.where((flags & FrameFlag.SWAPCACHE) != 0, pages - 1, 0)
        columns["flags"][piece] = flags & ~_OF_A_FOLIO
        columns["refcount"][piece] = np.where(large, mapcount + held, refcount)
        columns["folio_mapcount"][piece] = np.where(large, mapcount, of_folio)
        any_large = any_large or bool(large.any())
    if not any_large:
        return snapshot
    read, small = mappings["flags"].to_numpy(), np.uint8(0xFF & ~MappingFlag.HUGE)
    flags_of_row = made(len(read), np.uint8, lambda piece: read[piece] & small, empty)
    return replace(
        snapshot,
        frames=with_columns(frames, **columns, head_pfn=frames["pfn"].array),
        mappings=with_columns(mappings, flags=flags_of_row),
    )


def _with_others(snapshot: Snapshot, asked: list[str], empty: Empty) -> Snapshot:
    """The rows of ``other_mappings`` and ``other_frames`` that are lifted, among the rest."""
    mappings, frames = snapshot.other_mappings, snapshot.other_frames
    if mappings is None or frames is None:
        raise UsageError("the other tables of this snapshot were passed over when it was opened")
    vmas = snapshot.vmas
    vma, frame = mappings["vma_id"].to_numpy(), mappings["frame_id"].to_numpy()
    shared_vma = (vmas["vm_flags"].to_numpy() & _SHARED) != 0
    shared = empty(len(frames), np.bool_)
    shared[:] = False
    for piece in pieces(len(vma)):
        shared[frame[piece][shared_vma[vma[piece]]]] = True
    kind, size = frames["kind"].to_numpy(), len(frames)
    lifted = made(size, np.bool_, lambda p: _lifted(kind[p], shared[p], asked), empty)
    rows = numbers_where(made(len(vma), np.bool_, lambda p: lifted[frame[p]], empty), empty)
    opened = _unread(vmas, asked)
    for piece in pieces(len(rows)):
        opened[vma[rows[piece]]] = True
    others = _Others(mappings, frames, rows, numbers_where(lifted, empty))
    return _merged(replace(snapshot, vmas=_opened(snapshot, opened)), others, empty)


@dataclass(frozen=True)
class _Others:
    """Of ``other_mappings`` and ``other_frames`` the ``rows`` and ``pages`` that are lifted."""

    mappings: pd.DataFrame
    frames: pd.DataFrame
    rows: Numbers
    pages: Numbers


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


def _make_anonymous(columns: IntegerColumns, at: Numbers, others: _Others, found: Numbers) -> None:
    """The frames ``at`` in ``columns`` are small anonymous pages, held by their mappings and by
    what has pinned them. ``found``: how many mappings each has.
    """
    names = ("kind", "mapcount", "flags")
    kind, mapped, read = (others.frames[name].to_numpy() for name in names)
    for piece in pieces(len(at)):
        page, to = others.pages[piece], at[piece]
        hugetlb = kind[page] == FrameKind.HUGETLB  # its count is of the huge page
        most = np.maximum(found[piece], mapped[page])
        mapcount = np.where(hugetlb, found[piece], most).astype(np.int32)
        flags = read[page] & _KEPT_FLAGS
        pinned = (flags & FrameFlag.PINNED) != 0
        flags |= np.uint32(FrameFlag.LRU | FrameFlag.SWAPBACKED)
        flags |= np.where(pinned, np.uint32(FrameFlag.ANON_EXCLUSIVE), np.uint32(0))
        columns["kind"][to] = FrameKind.ANONYMOUS
        columns["flags"][to] = flags
        columns["order"][to] = 0
        columns["head_pfn"][to] = columns["pfn"][to]
        columns["mapcount"][to] = columns["folio_mapcount"][to] = mapcount
        columns["refcount"][to] = mapcount + pinned * _PIN
        columns["batch_references"][to] = 0


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


def _merged(snapshot: Snapshot, others: _Others, empty: Empty) -> Snapshot:
    """``snapshot`` with the rows of ``others``, all in the order of a snapshot."""
    mappings, frames = snapshot.mappings, snapshot.frames
    start = start_of_vmas(snapshot, np.arange(len(snapshot.processes), dtype=np.int64))

    def places(of: pd.DataFrame, rows: Callable[[slice], Any]) -> Callable[[slice], Words]:
        vma, page = of["vma_id"].to_numpy(), of["page_index"].to_numpy()
        return lambda piece: start[vma[rows(piece)]] + page[rows(piece)]

    pfns, theirs = frames["pfn"].to_numpy(), others.frames["pfn"].to_numpy()
    their_pfns = take(theirs, others.pages, empty)
    frame_at, page_at = merged_order(len(frames), lambda piece: pfns[piece], their_pfns, empty)
    their_places = places(others.mappings, lambda piece: others.rows[piece])
    at, their_at = merged_order(
        len(mappings),
        places(mappings, lambda piece: piece),
        made(len(others.rows), np.uint64, their_places, empty),
        empty,
    )
    every_frame, every_row = (counted(0, len(table), empty) for table in (frames, mappings))
    parts = [Rows(frames, every_frame, frame_at), Rows(others.frames, others.pages, page_at)]
    columns = joined(parts, empty)
    number = empty(len(others.frames), np.int32)  # of those that are lifted
    for piece in pieces(len(others.pages)):
        number[others.pages[piece]] = np.arange(piece.start, piece.stop, dtype=np.int32)
    their_frame = others.mappings["frame_id"].to_numpy()
    page_of_row = made(
        len(others.rows), np.int32, lambda p: number[their_frame[others.rows[p]]], empty
    )
    found = count(page_of_row, len(others.pages), empty=empty)
    _make_anonymous(columns, page_at, others, found)

    parts = [Rows(mappings, every_row, at), Rows(others.mappings, others.rows, their_at)]
    of_rows, frame_of_row = joined(parts, empty), mappings["frame_id"].to_numpy()
    for piece in pieces(len(at)):
        of_rows["frame_id"][at[piece]] = frame_at[frame_of_row[piece]]
    for piece in pieces(len(their_at)):
        of_rows["frame_id"][their_at[piece]] = page_at[page_of_row[piece]]
    nodes = snapshot.stable_nodes.copy()
    known = nodes["frame_id"].notna()
    nodes.loc[known, "frame_id"] = frame_at[nodes["frame_id"][known].to_numpy(np.int64)]
    return replace(
        snapshot,
        mappings=pd.DataFrame(of_rows, copy=False),
        frames=pd.DataFrame(columns, copy=False),
        stable_nodes=nodes,
    )

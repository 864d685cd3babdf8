"""Which pages changed between two snapshots of one system: ksmd would leave them alone."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Empty, Mask, Numbers, Words, find, made, page_keys, pieces
from estimator.errors import UsageError
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.identity import Identity
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces

_PLACE = ("vma_id", "page_index")  # of a mapping


@dataclass(frozen=True)
class Changes:
    """What another look says of each mapping: bool per row of ``mappings``.

    ``compared``: its bytes are known in both. ``changed``: they differ; only where ``compared``.
    ``changed_before``: of several looks, they differed in an earlier pair and not in the last.
    """

    changed: Mask
    compared: Mask
    changed_before: Mask

    def add(self, other: Changes) -> None:
        """What ``other`` says, a later look as well, is said here, too."""
        for piece in pieces(len(self.changed)):
            self.changed[piece] |= other.changed[piece]
            self.compared[piece] |= other.compared[piece]
            self.changed_before[piece] |= other.changed_before[piece]
            self.changed_before[piece] &= ~self.changed[piece]


def known_changes(
    snapshot: Snapshot, later: Snapshot | None, empty: Empty = np.empty
) -> Changes | None:
    """What later passes and the snapshot ``later`` say; None if there was neither.

    ``empty``: makes the arrays of all mappings and frames. Raises UsageError as ``require_pair``
    and ``changed_mappings``.
    """
    several = snapshot.info.get("passes", {}).get("count", 1) > 1
    if later is None and not several:
        return None
    known = of_passes(snapshot, empty)
    if later is not None:
        require_pair(snapshot, later, empty)
        known.add(changed_mappings(snapshot, later, empty=empty))
    return known


def of_passes(snapshot: Snapshot, empty: Empty = np.empty) -> Changes:
    """What the flags of ``mappings`` say; of a single pass: nothing."""
    flags = snapshot.mappings["flags"].to_numpy()

    def with_bit(bit: MappingFlag) -> Mask:
        return made(len(flags), np.bool_, lambda piece: (flags[piece] & bit) != 0, empty)

    return Changes(
        with_bit(MappingFlag.CHANGED),
        with_bit(MappingFlag.COMPARED),
        with_bit(MappingFlag.CHANGED_BEFORE),
    )


def with_flags(snapshot: Snapshot, changes: Changes) -> Snapshot:
    """``snapshot`` with ``changes`` in the flags of ``mappings``, in place of what was there."""
    bits = {
        MappingFlag.CHANGED: changes.changed,
        MappingFlag.COMPARED: changes.compared,
        MappingFlag.CHANGED_BEFORE: changes.changed_before,
    }
    flags = snapshot.mappings["flags"].to_numpy().copy()
    for bit, mask in bits.items():
        flags = np.where(mask, flags | np.uint8(bit), flags & np.uint8(0xFF ^ bit))
    return replace(snapshot, mappings=snapshot.mappings.assign(flags=flags))


def with_changes(snapshot: Snapshot, later: Snapshot | None) -> Snapshot:
    """``snapshot`` with what ``later`` says of its pages, as a later pass would have said it.

    Raises UsageError as ``known_changes``.
    """
    if later is None:
        return snapshot
    known = known_changes(snapshot, later)
    assert known is not None
    passes = dict(snapshot.info.get("passes", {}))
    passes["count"] = max(2, passes.get("count", 1))
    return replace(with_flags(snapshot, known), info=snapshot.info | {"passes": passes})


def require_pair(earlier: Snapshot, later: Snapshot, empty: Empty = np.empty) -> None:
    """Raise UsageError unless ``later`` can be a later picture of the same boot of one machine.

    Refused are another machine or boot, the same picture twice, and the reverse order: by the
    kernel's own clock, and by the time of collecting. That of dumps says nothing: they were
    collected after what they show.
    """
    first, second = Identity.of(earlier.info), Identity.of(later.info)
    if first.same_boot(second) is False:
        why = first.other_machine(second) or first.other_kernel(second) or "the boot-ids differ"
        raise UsageError(
            f"the two snapshots are not of one boot of one system: {why}",
            hint="take both of the same system, without a boot in between",
        )
    if _same_picture(earlier, later, empty):
        raise UsageError(
            "the two snapshots show the very same picture: nothing can be said of what changes",
            hint="take the second one some seconds later",
        )
    clocks = [_uptime_seconds(snapshot.info) for snapshot in (earlier, later)]
    if clocks[0] is not None and clocks[1] is not None and clocks[1] < clocks[0]:
        raise UsageError(
            "the later snapshot shows an earlier moment than the other one "
            f"({clocks[1]:.1f} s after boot, {clocks[0]:.1f} s)",
            hint="name them in the other order, or take both again without a boot in between",
        )
    dumps = "core" in (_source(earlier.info), _source(later.info))
    times = [_collected_at(snapshot.info) for snapshot in (earlier, later)]
    if not dumps and times[0] and times[1] and times[1] < times[0]:
        raise UsageError(
            f"the later snapshot was collected before the other one ({times[1]}, {times[0]})",
            hint="name them in the other order",
        )


def _source(info: dict[str, Any]) -> Any:
    return info.get("source", {}).get("kind")


def _uptime_seconds(info: dict[str, Any]) -> float | None:
    """What the kernel's clock said when the picture was taken; None: not known."""
    seconds = info.get("kernel", {}).get("uptime_seconds")
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return seconds if known else None


def _collected_at(info: dict[str, Any]) -> datetime.datetime | None:
    try:
        time = datetime.datetime.fromisoformat(info["collected_at"])
    except (KeyError, TypeError, ValueError):
        return None
    return time if time.tzinfo else None


def _same_picture(earlier: Snapshot, later: Snapshot, empty: Empty) -> bool:
    """The same frames with the same contents, mapped at the same places of the same processes."""
    numbers = (
        ("processes", ("pid",)),
        ("vmas", ("start", "end")),
        ("frames", ("pfn", "unknown")),
        ("mappings", ("vma_id", "page_index", "frame_id")),
    )
    same = same_hash(earlier, later) and all(
        _equal(*(getattr(snapshot, table)[column].to_numpy() for snapshot in (earlier, later)))
        for table, columns in numbers
        for column in columns
    )
    return same and _equal(_hashes(earlier, empty), _hashes(later, empty))


def _equal(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(one[piece], other[piece]) for piece in pieces(len(one))
    )


def changed_mappings(
    earlier: Snapshot, later: Snapshot, there: Numbers | None = None, empty: Empty = np.empty
) -> Changes:
    """What the look ``later`` says of each row of ``earlier.mappings``, found by its place.

    ``there``: ``same_place(earlier, later)`` of who has asked already. ``empty``: makes the arrays
    of all mappings and frames.

    The place is (pid and start time of the process, address). cmp_and_merge_page() in mm/ksm.c
    compares a page's checksum with the one it had a scan before and goes no further if they differ.
    A page that changed and changed back passes, there and here. Mappings that are missing or could
    not be read in one of the two are not compared. It serves the other way round as well. Raises
    UsageError if the hashes of the snapshots can't be compared.
    """
    if not same_hash(earlier, later):
        raise UsageError(
            "the hashes of the two snapshots have different seeds and can't be compared",
            hint="collect LATER with --like FIRST.ksm",
        )
    there = same_place(earlier, later, empty) if there is None else there
    changed, compared, nowhere = (empty(len(there), np.bool_) for _ in range(3))
    nowhere[:] = False
    hash_before, hash_after = _hashes(earlier, empty), _hashes(later, empty)
    frame_before, frame_after = (s.mappings["frame_id"].to_numpy() for s in (earlier, later))
    unknown_before, unknown_after = (s.frames["unknown"].to_numpy() for s in (earlier, later))
    for piece in pieces(len(there)):
        changed[piece], compared[piece] = False, False
        here = np.flatnonzero(there[piece] >= 0)
        before, after = frame_before[piece][here], frame_after[there[piece][here]]
        known = (unknown_before[before] == 0) & (unknown_after[after] == 0)
        compared[piece][here] = known
        changed[piece][here] = known & (hash_before[before] != hash_after[after])
    return Changes(changed, compared, nowhere)


def same_place(snapshot: Snapshot, other: Snapshot, empty: Empty = np.empty) -> Numbers:
    """For each row of ``snapshot.mappings`` the row (i32) of ``other`` at its place, else -1."""
    places, rows = _places_of(other, same_processes(snapshot, other), empty)
    start = start_of_vmas(snapshot, np.arange(len(snapshot.processes), dtype=np.int64))
    found = empty(len(snapshot.mappings), np.int32)
    for piece, some in in_pieces(snapshot.mappings, _PLACE):
        wanted = start[some["vma_id"].to_numpy()] + some["page_index"].to_numpy()
        place, there = find(places, wanted)
        found[piece] = -1
        found[piece][there] = rows[place]
    return found


def same_hash(earlier: Snapshot, later: Snapshot) -> bool:
    """Whether equal pages have equal hashes in both."""
    first, second = earlier.info.get("hash", {}), later.info.get("hash", {})
    return all(first.get(key) == second.get(key) for key in ("name", "seed"))


def same_processes(earlier: Snapshot, later: Snapshot) -> npt.NDArray[np.int64]:
    """mm_id in ``earlier`` of every process of ``later``, -1 if it was not there."""
    known = {
        key: mm
        for mm, key in enumerate(
            zip(earlier.processes["pid"], earlier.processes["start_time_ns"], strict=True)
        )
    }
    keys = zip(later.processes["pid"], later.processes["start_time_ns"], strict=True)
    return np.array([known.get(key, -1) for key in keys], dtype=np.int64)


def _places_of(
    snapshot: Snapshot, number_of_mm: npt.NDArray[np.int64], empty: Empty
) -> tuple[Words, Numbers]:
    """Where each mapping is, as one number, in ascending order, and the rows in that order.

    ``number_of_mm``: what to number each mm by; mappings of mms with -1 are left out.
    """
    mm_of_vma, start = snapshot.vmas["mm_id"].to_numpy(), start_of_vmas(snapshot, number_of_mm)
    counts = np.zeros(len(number_of_mm), np.int64)
    for _, some in in_pieces(snapshot.mappings, ("vma_id",)):
        counts += np.bincount(mm_of_vma[some["vma_id"].to_numpy()], minlength=len(counts))
    order = np.argsort(number_of_mm, kind="stable")
    order = order[number_of_mm[order] >= 0]
    ends = np.cumsum(counts[order])
    moved = np.zeros(len(counts), np.int64)  # by how much the rows of each mm, which lie together
    moved[order] = ends - counts[order] - (np.cumsum(counts) - counts)[order]

    taken = (number_of_mm >= 0)[mm_of_vma]
    total = int(counts[order].sum())
    places, rows = empty(total, np.uint64), empty(total, np.int32)
    for piece, some in in_pieces(snapshot.mappings, _PLACE):
        vma = some["vma_id"].to_numpy()
        inside = np.flatnonzero(taken[vma])
        vma, page = vma[inside], some["page_index"].to_numpy()[inside]
        to = inside + piece.start + moved[mm_of_vma[vma]]
        places[to], rows[to] = start[vma] + page, inside + piece.start
    twins = np.flatnonzero(np.diff(number_of_mm[order]) == 0)
    for number in np.unique(number_of_mm[order][twins]).tolist():
        first, last = np.flatnonzero(number_of_mm[order] == number)[[0, -1]].tolist()
        theirs = slice(ends[first] - counts[order[first]], ends[last])
        sort = np.argsort(places[theirs], kind="stable")
        places[theirs], rows[theirs] = places[theirs][sort], rows[theirs][sort]
    return places, rows


def start_of_vmas(snapshot: Snapshot, number_of_mm: npt.NDArray[np.int64]) -> Words:
    """The place of the first page of each VMA; of an mm with -1 as of one with 0."""
    vmas, page_bytes = snapshot.vmas, np.uint64(snapshot.info["kernel"]["page_size"])
    mm = np.maximum(number_of_mm[vmas["mm_id"].to_numpy()], 0)
    return page_keys(mm, vmas["start"].to_numpy() // page_bytes)


def _hashes(snapshot: Snapshot, empty: Empty) -> Words:
    hashes = empty(len(snapshot.frames), np.uint64)
    for piece, some in in_pieces(snapshot.frames, ("hash",)):
        hashes[piece] = some["hash"].to_numpy(np.uint64, na_value=0)
    return hashes

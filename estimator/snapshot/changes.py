"""Which pages changed between two snapshots of one system: ksmd would leave them alone."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints, Mask, find, page_keys
from estimator.errors import UsageError
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.identity import Identity
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Changes:
    """What another look says of each mapping: bool per row of ``mappings``.

    ``compared``: its bytes are known in both. ``changed``: they differ; only where ``compared``.
    ``changed_before``: of several looks, they differed in an earlier pair and not in the last.
    """

    changed: Mask
    compared: Mask
    changed_before: Mask

    def __or__(self, other: Changes) -> Changes:
        """What two later looks say together."""
        changed = self.changed | other.changed
        before = (self.changed_before | other.changed_before) & ~changed
        return Changes(changed, self.compared | other.compared, before)


def known_changes(snapshot: Snapshot, later: Snapshot | None) -> Changes | None:
    """What later passes and the snapshot ``later`` say; None if there was neither.

    Raises UsageError as ``require_pair`` and ``changed_mappings``.
    """
    several = snapshot.info.get("passes", {}).get("count", 1) > 1
    if later is None and not several:
        return None
    known = of_passes(snapshot)
    if later is None:
        return known
    require_pair(snapshot, later)
    return known | changed_mappings(snapshot, later)


def of_passes(snapshot: Snapshot) -> Changes:
    """What the flags of ``mappings`` say; of a single pass: nothing."""
    flags = snapshot.mappings["flags"].to_numpy()
    bits = (MappingFlag.CHANGED, MappingFlag.COMPARED, MappingFlag.CHANGED_BEFORE)
    return Changes(*((flags & np.uint8(bit)) != 0 for bit in bits))


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


def require_pair(earlier: Snapshot, later: Snapshot) -> None:
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
    if _same_picture(earlier, later):
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


def _same_picture(earlier: Snapshot, later: Snapshot) -> bool:
    """The same frames with the same contents, mapped at the same places of the same processes."""
    numbers = (
        ("processes", ("pid",)),
        ("vmas", ("start", "end")),
        ("frames", ("pfn", "unknown")),
        ("mappings", ("vma_id", "page_index", "frame_id")),
    )
    same = same_hash(earlier, later) and all(
        np.array_equal(*(getattr(snapshot, table)[column] for snapshot in (earlier, later)))
        for table, columns in numbers
        for column in columns
    )
    return same and np.array_equal(_hashes(earlier), _hashes(later))


def changed_mappings(earlier: Snapshot, later: Snapshot, there: Ints | None = None) -> Changes:
    """What the look ``later`` says of each row of ``earlier.mappings``, found by its place.

    ``there``: ``same_place(earlier, later)`` of who has asked already.

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
    there = same_place(earlier, later) if there is None else there
    changed, compared, nowhere = (np.zeros(len(there), np.bool_) for _ in range(3))
    here = np.flatnonzero(there >= 0)
    before = earlier.mappings["frame_id"].to_numpy()[here]
    after = later.mappings["frame_id"].to_numpy()[there[here]]
    compared[here] = (earlier.frames["unknown"].to_numpy()[before] == 0) & (
        later.frames["unknown"].to_numpy()[after] == 0
    )
    changed[here] = compared[here] & (_hashes(earlier)[before] != _hashes(later)[after])
    return Changes(changed, compared, nowhere)


def same_place(snapshot: Snapshot, other: Snapshot) -> Ints:
    """For each row of ``snapshot.mappings`` the row of ``other`` at its place, -1 where none is."""
    places, rows = places_of(other, same_processes(snapshot, other))
    wanted, wanted_rows = places_of(snapshot, np.arange(len(snapshot.processes), dtype=np.int64))
    found = np.full(len(wanted), -1, dtype=np.int64)
    place, here = find(places, wanted)
    found[wanted_rows[here]] = rows[place]
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


def places_of(
    snapshot: Snapshot, mm: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Where each mapping is, as one number, in ascending order, and the rows in that order.

    ``mm``: the number to use for each mm; mappings of mms with -1 are left out.
    """
    vmas = snapshot.vmas
    mm_of_vma = mm[vmas["mm_id"].to_numpy()]
    first_page = vmas["start"].to_numpy() // np.uint64(snapshot.info["kernel"]["page_size"])
    start = page_keys(np.maximum(mm_of_vma, 0), first_page)
    vma = snapshot.mappings["vma_id"].to_numpy()
    places = start[vma] + snapshot.mappings["page_index"].to_numpy()
    rows = np.arange(len(places))
    if (mm_of_vma < 0).any():
        rows = np.flatnonzero(mm_of_vma[vma] >= 0)
        places = places[rows]
    if (places[1:] < places[:-1]).any():
        order = np.argsort(places)
        places, rows = places[order], rows[order]
    return places, rows


def _hashes(snapshot: Snapshot) -> npt.NDArray[np.uint64]:
    return snapshot.frames["hash"].to_numpy(dtype=np.uint64, na_value=0)

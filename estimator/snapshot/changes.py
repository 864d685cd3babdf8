"""Which pages changed between two snapshots of one system: ksmd would leave them alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from estimator.errors import UsageError
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.snapshot import Snapshot

_PAGE_SHIFT = 12
_PAGE_NUMBER_BITS = 45  # 57-bit addresses


def known_changes(snapshot: Snapshot, later: Snapshot | None) -> npt.NDArray[np.bool_] | None:
    """Bool per mapping: seen to change, by a later pass or snapshot; None if there was neither.

    Raises UsageError as ``changed_mappings``.
    """
    several = snapshot.info.get("passes", {}).get("count", 1) > 1
    if later is None and not several:
        return None
    flags = snapshot.mappings["flags"].to_numpy()
    changed = (flags & np.uint8(MappingFlag.CHANGED)) != 0
    return changed if later is None else changed | changed_mappings(snapshot, later)


def changed_mappings(earlier: Snapshot, later: Snapshot) -> npt.NDArray[np.bool_]:
    """Bool per row of ``earlier.mappings``: other bytes at the same place in ``later``.

    The place is (pid and start time of the process, address). cmp_and_merge_page() in mm/ksm.c
    compares a page's checksum with the one it had a scan before and goes no further if they differ.
    A page that changed and changed back passes, there and here. Mappings that are missing or could
    not be read in one of the two count as unchanged. Raises UsageError if the hashes of the
    snapshots can't be compared.
    """
    first, second = earlier.info.get("hash"), later.info.get("hash")
    if first != second:
        raise UsageError(
            f"the two snapshots were hashed differently ({first} and {second})",
            hint="collect both with the same hash and seed",
        )
    mm_of_later = _same_processes(earlier, later)
    places, rows = _places(later, mm_of_later)
    wanted, _ = _places(earlier, np.arange(len(earlier.processes), dtype=np.int64))
    changed = np.zeros(len(wanted), dtype=bool)
    if not len(places):
        return changed
    found = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
    here = np.flatnonzero(places[found] == wanted)
    before = earlier.mappings["frame_id"].to_numpy()[here]
    after = later.mappings["frame_id"].to_numpy()[rows[found[here]]]
    changed[here] = (
        (_hashes(earlier)[before] != _hashes(later)[after])
        & (earlier.frames["unknown"].to_numpy()[before] == 0)
        & (later.frames["unknown"].to_numpy()[after] == 0)
    )
    return changed


def _same_processes(earlier: Snapshot, later: Snapshot) -> npt.NDArray[np.int64]:
    """mm_id in ``earlier`` of every process of ``later``, -1 if it was not there."""
    known = {
        key: mm
        for mm, key in enumerate(
            zip(earlier.processes["pid"], earlier.processes["start_time_ns"], strict=True)
        )
    }
    keys = zip(later.processes["pid"], later.processes["start_time_ns"], strict=True)
    return np.array([known.get(key, -1) for key in keys], dtype=np.int64)


def _places(
    snapshot: Snapshot, mm: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Where each mapping is, as one number, in ascending order, and the rows in that order.

    ``mm``: the number to use for each mm; mappings of mms with -1 are left out.
    """
    vmas = snapshot.vmas
    mm_of_vma = mm[vmas["mm_id"].to_numpy()]
    start = vmas["start"].to_numpy() >> np.uint64(_PAGE_SHIFT)
    start |= mm_of_vma.astype(np.uint64) << np.uint64(_PAGE_NUMBER_BITS)
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

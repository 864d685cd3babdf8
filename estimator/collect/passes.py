"""Several looks at a running system, some seconds apart: which pages hold still."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from estimator.snapshot.changes import (
    Changes,
    changed_mappings,
    of_passes,
    same_place,
    with_flags,
)
from estimator.snapshot.snapshot import Snapshot, others_alone


def collect_passes(look: Callable[[], Snapshot], passes: int, interval_seconds: float) -> Snapshot:
    """The last of ``passes`` snapshots, with what the ones before it say of each page.

    That is how ksmd sees a page in a full scan: by what is there, and by the checksum of the scan
    before (cmp_and_merge_page() in mm/ksm.c).

    ``look`` takes a snapshot; two start ``interval_seconds`` apart, or as much later as one takes.
    """
    started = time.monotonic()
    latest = look()
    for _ in range(1, passes):
        time.sleep(max(0.0, started + interval_seconds - time.monotonic()))
        started = time.monotonic()
        before, latest = latest, look()
        others = others_alone(latest), others_alone(before)
        latest = with_flags(latest, _since(before, latest))
        if others[0] and others[1]:
            flagged = with_flags(others[0], _since(others[1], others[0]))
            latest = replace(latest, other_mappings=flagged.mappings)
    about = {"count": passes, "interval_seconds": interval_seconds}
    return replace(latest, info=latest.info | {"passes": about})


def _since(before: Snapshot, latest: Snapshot) -> Changes:
    """Of each mapping of ``latest``: whether it changed since ``before``, where it may be new."""
    there = same_place(latest, before)
    found = changed_mappings(latest, before, there)
    new = there < 0  # ksmd has no checksum of it yet
    earlier = of_passes(before)
    changed_before = ~new & (earlier.changed | earlier.changed_before)[there]
    return Changes(found.changed | new, found.compared | new, changed_before & ~found.changed)

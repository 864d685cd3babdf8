"""Several looks at a running system, some seconds apart: which pages hold still."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from estimator.snapshot.changes import Changes, changed_mappings
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.snapshot import Snapshot


def collect_passes(look: Callable[[], Snapshot], passes: int, interval_seconds: float) -> Snapshot:
    """The first of ``passes`` snapshots, with CHANGED set where a later one has other bytes.

    COMPARED is set where one of them has any that are known.

    ``look`` takes a snapshot; two start ``interval_seconds`` apart, or as much later as one takes.
    """
    started = time.monotonic()
    first = look()
    nothing = np.zeros(len(first.mappings), np.bool_)
    found = Changes(nothing, nothing)
    for _ in range(1, passes):
        time.sleep(max(0.0, started + interval_seconds - time.monotonic()))
        started = time.monotonic()
        found |= changed_mappings(first, look())
    flags = first.mappings["flags"].to_numpy() | found.changed * np.uint8(MappingFlag.CHANGED)
    flags |= found.compared * np.uint8(MappingFlag.COMPARED)
    about = {"count": passes, "interval_seconds": interval_seconds}
    return replace(
        first, info=first.info | {"passes": about}, mappings=first.mappings.assign(flags=flags)
    )

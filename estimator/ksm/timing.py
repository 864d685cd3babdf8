"""What of the rules' answer says when things happen, also where it was worked out in parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from estimator.arrays import Empty, Ints, Numbers
from estimator.ksm.fate import Solved
from estimator.ksm.frames import NEVER
from estimator.ksm.replay import Ordered
from estimator.ksm.simulation import Simulation


@dataclass(frozen=True)
class Timing:
    """When contents merge that do not do so in scan 2, and what the simulation tells.

    ``split``: i32 per frame, to be read alone; ``late``, ``copied``: i32 rows of ``mappings``: see
    ``ClosedForms``.
    """

    split: Numbers
    late: Numbers
    copied: Numbers
    ordered: Ordered | None


def timing_of(solved: Solved) -> Timing:
    """Of what was solved in time (``solve``)."""
    closed = solved.closed
    return Timing(closed.split, closed.late, closed.copied, solved.ordered)


class WholeTiming:
    """Put together, part by part; its parts have rows, frames and folios numbered from 0."""

    def __init__(self, frames: int, folios: int, empty: Empty) -> None:
        self._split: Numbers = np.broadcast_to(np.int32(NEVER), frames)
        if folios:
            self._split = empty(frames, np.int32)
            self._split[:] = NEVER
        self._late, self._copied = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        self._ordered: Ordered | None = None

    def note(self, part: Timing, rows: Numbers, frames: Numbers, folios: Ints) -> None:
        """``rows``, ``frames``, ``folios``: which ones of the whole those of ``part`` are.

        At most one part has a simulation.
        """
        if self._split.flags.writeable:
            at_row = part.split.copy()
            in_scan_2 = (at_row >= 0) & (at_row != NEVER)
            at_row[in_scan_2] = rows[at_row[in_scan_2]]
            self._split[frames] = at_row
        self._late.append(rows[part.late])
        self._copied.append(rows[part.copied])
        if part.ordered is not None:
            found = _renumbered(part.ordered.simulation, rows, frames, folios)
            self._ordered = Ordered(rows[part.ordered.rows].astype(np.int64), found)

    def timing(self) -> Timing:
        """All that was noted."""
        late, copied = (np.concatenate(each) for each in (self._late, self._copied))
        return Timing(self._split, late, copied, self._ordered)


def _renumbered(found: Simulation, rows: Numbers, frames: Numbers, folios: Ints) -> Simulation:
    def row_of(at: int) -> int:
        return int(rows[at]) if at >= 0 else at

    merged = found.stable_frame >= 0
    stable_frame = found.stable_frame.copy()
    stable_frame[merged] = frames[stable_frame[merged]]
    return replace(
        found,
        stable_frame=stable_frame,
        orphans=frozenset(int(frames[n]) for n in found.orphans),
        split_folios=frozenset(int(folios[n]) for n in found.split_folios),
        splits={int(folios[n]): (scan, row_of(at)) for n, (scan, at) in found.splits.items()},
        blocked_from={scan: row_of(at) for scan, at in found.blocked_from.items()},
    )

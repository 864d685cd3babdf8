"""What smart_scan lets ksmd process, and what the counters of one scan show because of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.snapshot.flags import OLD_VISITS, SKIPPING_SCANS


def is_processed(visits: int) -> bool:
    """Whether should_skip_rmap_item() lets an item through at its visit number ``visits``, from 1.

    By skip_age() that is at 1, 2, 3, 4, 6, 9, 14, 23 and every ninth from then on.
    """
    if visits < OLD_VISITS:
        return visits in (1, 2, 3, 4, 6, 9)
    return (visits - OLD_VISITS) % SKIPPING_SCANS == 0


def processes_all(scan: int, *, smart_scan: bool) -> bool:
    """Whether full scan number ``scan``, from 1, processes the items that the first one found."""
    return not smart_scan or is_processed(scan)


@dataclass(frozen=True)
class Reading:
    """What the items of a simulation add to the counters after one full scan.

    ``unshared``: items in the unstable tree. ``processed``: in a scan that processes all items,
    minus those skipped all the same; in another, those processed that were on no node before it.
    """

    unshared: int = 0
    processed: int = 0


@dataclass
class Readings:
    """The readings of full scans 1, 2 ... of items that do not concern each other: ``parts``.

    A part that is shorter ended at rest, with a scan that processed all its items, and goes on like
    this: none of them takes turns with the others.
    """

    smart_scan: bool
    parts: dict[int, list[Reading]] = field(default_factory=dict)

    def note(self, part: int, reading: Reading) -> None:
        """The next full scan of ``part``."""
        self.parts.setdefault(part, []).append(reading)

    def after(self, scan: int) -> Reading:
        """All parts after full scan number ``scan``, from 1."""
        found = [self._of_part(part, scan) for part in self.parts.values()]
        return Reading(sum(r.unshared for r in found), sum(r.processed for r in found))

    def latest_change(self) -> int:
        """The latest scan that left more or fewer items in the unstable tree than those before.

        Of the scans that process all items. What is not merged may come to wait there in the scan
        after the one that merged the rest, when a stable node has become full.
        """
        found = 0
        for part in self.parts.values():
            before = part[0].unshared
            for scan, reading in enumerate(part, 1):
                if processes_all(scan, smart_scan=self.smart_scan):
                    if reading.unshared != before:
                        found = max(found, scan)
                    before = reading.unshared
        return found

    def _of_part(self, part: list[Reading], scan: int) -> Reading:
        if scan <= len(part):
            return part[scan - 1]
        return part[-1] if processes_all(scan, smart_scan=self.smart_scan) else Reading()

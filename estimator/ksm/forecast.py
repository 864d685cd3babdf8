"""Snapshot and policy in, the counters of KSM after every full scan out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.errors import UsageError
from estimator.ksm.accounting import seen_before
from estimator.ksm.course import Course, course_of
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.policy import Policy
from estimator.ksm.predict import ask
from estimator.ksm.prediction import Prediction
from estimator.ksm.scan_bounds import ScanBounds, blocked_searches, scan_bounds
from estimator.ksm.scans import LATEST, scan_table, times_of
from estimator.ksm.within import Within
from estimator.snapshot.snapshot import Snapshot

MOST_SCANS = 100
"""How many full scans a forecast follows at most if it is not told how many."""


@dataclass(frozen=True)
class Forecast:
    """What ksmd does, scan by scan.

    ``scans``: one row per full scan from the first on: ``full_scans`` (its number), and after it
    the counters of /sys/kernel/mm/ksm by the names of their files (pages; general_profit in bytes;
    pages_scanned, each page once, and pages_skipped since the first scan began),
    ``ksm_rmap_items``, ``frames_freed`` and ``bytes_saved`` (of memory, before what KSM
    allocates). ``bounds``: where they are not exact, and why. ``course``, ``within``: within a
    scan. ``at_rest``: what it comes to. ``settled_in``: u16 per row of ``snapshot.mappings``, the
    full scan in which it came to its outcome, if that is MERGED, ZERO_PAGE or SPLIT_AWAY; 0: it
    had merged before.
    """

    at_rest: Prediction
    scans: pd.DataFrame
    bounds: ScanBounds
    course: Course = field(repr=False)
    within: Within = field(repr=False)
    page_bytes: int
    settled_in: npt.NDArray[np.uint16] = field(repr=False)


def forecast(
    snapshot: Snapshot,
    policy: Policy | None = None,
    *,
    later: Snapshot | None = None,
    smart_scan: bool | None = None,
    scans: int | None = None,
    room: Workroom | None = None,
    at_rest: Prediction | None = None,
) -> Forecast:
    """What ksmd's counters will be after every full scan while memory holds still.

    ``smart_scan``: None: as the snapshot's kernel has it. ``scans``: how many full scans; None:
    until nothing changes any more, but at most ``MOST_SCANS``. ``at_rest``: what ``predict`` says
    of the same snapshot and policy, if it is there: what it holds is not held twice, and what it
    warns of not worked out again; its rows may be given back. The rest as for ``predict``, and so
    are the errors; UsageError too for smart_scan where the kernel has none, and for more than
    ``LATEST`` scans.
    """
    snapshot = with_smart_scan(snapshot, smart_scan)
    if scans is not None and not 0 < scans <= LATEST:
        raise UsageError(f"{scans} full scans can't be followed: 1 to {LATEST:,}")
    question = ask(snapshot, policy, later=later, room=room, through=scans or MOST_SCANS)
    case = question.case
    if case.rules.smart_scan and "visits" in snapshot.mappings:
        at_rest = None  # it knows who is out of step, which the course of scans does not follow
    fate, timing = question.in_time()
    if at_rest is not None and at_rest.has_rows and not len(fate.simulated):
        prediction, of_frame = at_rest, at_rest.freed.content
        fate = replace(fate, outcome=at_rest.outcome, stable_frame=at_rest.stable_node)
        case = replace(case, contents=replace(case.contents, of_frame=of_frame))
    else:
        prediction = question.answer(fate)
    if len(fate.simulated):  # more of them than the state at rest hangs on
        whole = question.answer(question.at_rest()) if at_rest is None else at_rest
        prediction = replace(prediction, warnings=whole.warnings)
    fate = replace(fate, left=np.zeros(0, np.int32))  # memory for what comes: it is told
    times = times_of(case, timing, fate, prediction)
    blocked = blocked_searches(case, timing, fate, times)
    seen = not question.told.starts_over and seen_before(case)
    del question
    case = case.settled()
    table = scan_table(case, timing, fate, prediction, times, scans or min(fate.scans, MOST_SCANS))
    bounds = scan_bounds(case, timing, fate, prediction, times, table, blocked, seen=seen)
    rules = case.rules
    del case
    course = course_of(timing, fate, prediction, times)
    within = Within(rules, timing, fate, prediction, times, table)
    return Forecast(prediction, table, bounds, course, within, rules.page_bytes, times.settled_in)


def with_smart_scan(snapshot: Snapshot, smart_scan: bool | None) -> Snapshot:
    """``snapshot`` as if smart_scan were so; None: as it is.

    Raises UsageError where the kernel has none.
    """
    if smart_scan is None:
        return snapshot
    if smart_scan and not snapshot.info["features"]["smart_scan"]:
        raise UsageError(f"smart_scan: Linux {snapshot.info['kernel']['release']} has none")
    ksm = dict(snapshot.info["ksm"]) | {"smart_scan": int(smart_scan)}
    return replace(snapshot, info=dict(snapshot.info) | {"ksm": ksm})

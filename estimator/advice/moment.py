"""What there is so many seconds after the start of ksmd, which mostly is within a full scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from estimator.advice.pace import Pace, Pacing, pace
from estimator.advice.page_cost import CostRange
from estimator.errors import UsageError
from estimator.ksm.forecast import Forecast, forecast
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.policy import Policy
from estimator.ksm.scans import LATEST
from estimator.ksm.within import COUNTERS
from estimator.snapshot.snapshot import Snapshot

_GROWING = ("pages_shared", "pages_sharing", "ksm_zero_pages", "bytes_saved")
"""What a scan lets grow, so that it lies between its values before and after it."""
COUNTED = (*COUNTERS, "bytes_saved")

Range = tuple[float, float]


@dataclass(frozen=True)
class Moment:
    """Least and most of each number.

    ``full_scans``: done by then. ``scanned_pages``: visited by then, since ksmd began.
    ``counters``: by name, page by page (``Course``, ``Within``).
    """

    seconds: float
    full_scans: Range
    scanned_pages: Range
    cpu_seconds: Range
    counters: dict[str, Range]


@dataclass(frozen=True)
class _Place:
    """Where ksmd is if a page costs so much."""

    done: int
    scanned_pages: int
    within_pages: int
    cpu_seconds: float


def moment(
    forecast: Forecast, pace: Pace, seconds: float, names: Sequence[str] = COUNTED
) -> Moment:
    """The state ``seconds`` after the start; after the last scan of the forecast, that at its end.

    ``full_scans`` tells. ``names``: of ``COUNTED``; what is saved alone takes less memory.
    """
    places = [_place(pace, times, seconds) for times in (pace.scans, pace.cheap)]

    def both(name: str) -> Range:
        low, high = sorted(float(getattr(place, name)) for place in places)
        return low, high

    return Moment(
        seconds,
        both("done"),
        both("scanned_pages"),
        both("cpu_seconds"),
        _counters(forecast, places, names),
    )


def _range(ranges: list[Range]) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _counters(forecast: Forecast, places: list[_Place], names: Sequence[str]) -> dict[str, Range]:
    found = [_at(forecast, place, names) for place in places]
    return {name: _range([each[name] for each in found]) for name in names}


def _at(forecast: Forecast, place: _Place, names: Sequence[str]) -> dict[str, Range]:
    """The counters ``names``, and perhaps more, where ksmd is at ``place``."""
    least, most = forecast.bounds.least, forecast.bounds.most
    if place.done == len(least):
        return {name: (float(least[name].iloc[-1]), float(most[name].iloc[-1])) for name in names}
    if forecast.bounds.reasons:
        return {name: _between(forecast, place.done, name) for name in names}
    before = float(least["bytes_saved"].iloc[place.done - 1]) if place.done else 0.0
    freed = forecast.course.freed(place.done + 1, place.within_pages)
    low, high = (before + n * forecast.page_bytes for n in freed)
    found = {"bytes_saved": (low, high)}
    if found.keys() >= set(names):
        return found
    counters = forecast.within.after(place.done + 1, place.within_pages)
    return found | {name: (float(a), float(b)) for name, (a, b) in counters.items()}


def _between(forecast: Forecast, done: int, name: str) -> Range:
    """A counter between the full scans ``done`` and ``done`` + 1, where no more is known."""
    least, most = forecast.bounds.least[name], forecast.bounds.most[name]
    before = (float(least.iloc[done - 1]), float(most.iloc[done - 1])) if done else (0.0, 0.0)
    after = float(least.iloc[done]), float(most.iloc[done])
    if name in _GROWING or name in ("general_profit", "ksm_rmap_items"):
        return min(before[0], after[0]), max(before[1], after[1])
    items = forecast.bounds.most["ksm_rmap_items"]
    return 0.0, float(items.iloc[max(done - 1, 0) : done + 1].max())


@dataclass(frozen=True)
class Mark:
    """When ``share`` of the saving is there: in full scan ``full_scan``, after so many seconds."""

    share: float
    full_scan: int
    seconds: Range
    cpu_seconds: Range


def marks(forecast: Forecast, pace: Pace) -> list[Mark]:
    """Those of ``pace.marks``, page by page; at the end of the scan where that is not known."""
    return [_mark(forecast, pace, share, row) for share, row in pace.marks.items()]


def _mark(forecast: Forecast, pace: Pace, share: float, row: int) -> Mark:
    whole, size = forecast.at_rest.physical["bytes_saved"], forecast.page_bytes
    saved = pace.scans["bytes_saved"]
    frames = math.ceil(share * whole / size) - (int(saved.iloc[row - 1]) // size if row else 0)
    pages = None if forecast.bounds.reasons else forecast.course.pages_until(row + 1, frames)
    if pages is None:
        ends = (pace.range_of(name, row) for name in ("seconds", "cpu_seconds"))
        return Mark(share, row + 1, *ends)
    seconds, cpu_seconds = [], []
    for times in (pace.scans, pace.cheap):
        began, spent = _before(times, row)
        now = times.iloc[row]
        pauses, busy = (pages - 1) // int(now["pages_to_scan"]), pages * float(now["page_seconds"])
        seconds.append(began + pauses * float(now["pause_seconds"]) + busy)
        cpu_seconds.append(spent + busy)
    return Mark(share, row + 1, (min(seconds), max(seconds)), (min(cpu_seconds), max(cpu_seconds)))


@dataclass(frozen=True)
class Foretell:
    """The question of a forecast without its end; see ``forecast``."""

    snapshot: Snapshot
    policy: Policy
    later: Snapshot | None = None
    smart_scan: bool | None = None
    room: Workroom | None = None

    def scans(self, scans: int | None) -> Forecast:
        """The answer for so many full scans; None: until nothing changes any more."""
        return forecast(
            self.snapshot,
            self.policy,
            later=self.later,
            smart_scan=self.smart_scan,
            scans=scans,
            room=self.room,
        )


def until(
    foretell: Foretell,
    pacing: Pacing,
    cost: CostRange,
    scans: int | None = None,
    seconds: float | None = None,
) -> tuple[Forecast, Pace, Moment | None]:
    """A forecast that goes on for ``seconds``, if they are given, and what there is then.

    Of the scans, those that have begun by then if a page costs the least. Raises UsageError where
    more than ``LATEST`` pass in that time.
    """
    snapshot = foretell.snapshot
    while True:
        found = foretell.scans(scans)
        paced = pace(snapshot, found, pacing, cost)
        if seconds is None:
            return found, paced, None
        then = moment(found, paced, seconds)
        if then.full_scans[1] < len(paced.scans):
            break
        if len(paced.scans) == LATEST:
            raise UsageError(
                f"more than {LATEST:,} full scans pass in that time, and nothing changes by then",
                hint="without --for, the forecast ends where nothing changes any more",
            )
        scans = min(LATEST, 4 * len(paced.scans))
    begun = int(then.full_scans[1]) + 1
    return _first(found, begun), pace(snapshot, _first(found, begun), pacing, cost), then


def _first(found: Forecast, scans: int) -> Forecast:
    """The first so many ``scans``."""
    bounds = replace(found.bounds, least=found.bounds.least[:scans], most=found.bounds.most[:scans])
    return replace(found, scans=found.scans[:scans], bounds=bounds)


def _place(pace: Pace, times: pd.DataFrame, seconds: float) -> _Place:
    """Batches of pages_to_scan that are done, and the pages of the one that is not."""
    scanned = pace.scans["pages_scanned"]
    done = int(times["seconds"].searchsorted(seconds, side="right"))
    already = int(scanned.iloc[done - 1]) if done else 0
    began, spent = _before(times, done)
    if done == len(times):
        return _Place(done, already, 0, spent)
    now = times.iloc[done]
    size, page_seconds = int(now["pages_to_scan"]), float(now["page_seconds"])
    batch_seconds = size * page_seconds + float(now["pause_seconds"])
    batches, rest = divmod(max(seconds - began, 0.0), batch_seconds)
    here = already + int(batches) * size + min(int(rest / page_seconds), size)
    here = min(here, int(scanned.iloc[done]))
    return _Place(done, here, here - already, spent + (here - already) * page_seconds)


def _before(times: pd.DataFrame, row: int) -> Range:
    """When a scan begins, after the sleep that ends the one before, and the CPU time until then."""
    if not row:
        return 0.0, 0.0
    last = times.iloc[row - 1]
    return float(last["seconds"] + last["pause_seconds"]), float(last["cpu_seconds"])

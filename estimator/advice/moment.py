"""What there is so many seconds after the start of ksmd, which mostly is within a full scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from estimator.advice.pace import Pace, Pacing, pace
from estimator.advice.page_cost import CostRange, PageCost
from estimator.ksm.forecast import Forecast, forecast
from estimator.ksm.policy import Policy
from estimator.ksm.scans import LATEST
from estimator.snapshot.snapshot import Snapshot

GROWING = ("pages_shared", "pages_sharing", "ksm_zero_pages", "bytes_saved")
"""What does not fall in a scan, so that it lies between its values before and after it."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Moment:
    """Least and most of each number.

    ``full_scans``: done by then. ``scanned_pages``: visited by then, since ksmd began.
    ``counters``: of each of ``GROWING``.
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
    cpu_seconds: float


def moment(forecast: Forecast, pace: Pace, seconds: float) -> Moment | None:
    """The state ``seconds`` after the start; None if the scans of the forecast end before that."""
    places = [
        _place(pace, pace.scans, pace.cost.most, seconds),
        _place(pace, pace.cheap, pace.cost.least, seconds),
    ]
    rows = [place.done for place in places]
    if max(rows) == len(pace.scans):
        return None
    least, most = forecast.bounds.least, forecast.bounds.most
    first, last = min(rows), max(rows)

    def both(name: str) -> Range:
        low, high = sorted(float(getattr(place, name)) for place in places)
        return low, high

    return Moment(
        seconds,
        both("done"),
        both("scanned_pages"),
        both("cpu_seconds"),
        {
            name: (
                float(least[name].iloc[first - 1]) if first else 0.0,
                float(most[name].iloc[last]),
            )
            for name in GROWING
        },
    )


@dataclass(frozen=True)
class Foretell:
    """The question of a forecast without its end; see ``forecast``."""

    snapshot: Snapshot
    policy: Policy
    later: Snapshot | None = None
    smart_scan: bool | None = None

    def scans(self, scans: int | None) -> Forecast:
        """The answer for so many full scans; None: until nothing changes any more."""
        return forecast(
            self.snapshot,
            self.policy,
            later=self.later,
            smart_scan=self.smart_scan,
            scans=scans,
        )


def until(
    foretell: Foretell,
    pacing: Pacing,
    cost: CostRange,
    scans: int | None = None,
    seconds: float | None = None,
) -> tuple[Forecast, Pace, Moment | None]:
    """A forecast that goes on for ``seconds``, if they are given, and what there is then.

    Of the scans, those that have begun by then if a page costs the least. The moment is None
    without ``seconds``, and where more than ``LATEST`` scans pass in them.
    """
    snapshot = foretell.snapshot
    while True:
        found = foretell.scans(scans)
        paced = pace(snapshot, found, pacing, cost)
        if seconds is None:
            return found, paced, None
        then = moment(found, paced, seconds)
        if then is not None or len(paced.scans) == LATEST:
            break
        scans = min(LATEST, 4 * len(paced.scans))
    if then is None:
        return found, paced, None
    begun = int(then.full_scans[1]) + 1
    return _first(found, begun), pace(snapshot, _first(found, begun), pacing, cost), then


def _first(found: Forecast, scans: int) -> Forecast:
    """The first so many ``scans``."""
    bounds = replace(found.bounds, least=found.bounds.least[:scans], most=found.bounds.most[:scans])
    return replace(found, scans=found.scans[:scans], bounds=bounds)


def _place(pace: Pace, times: pd.DataFrame, cost: PageCost, seconds: float) -> _Place:
    """Batches of pages_to_scan that are done, and the pages of the one that is not."""
    asleep, scanned = pace.pacing.sleep_millisecs / 1000, pace.scans["pages_scanned"]
    done = int(times["seconds"].searchsorted(seconds, side="right"))
    already = int(scanned.iloc[done - 1]) if done else 0
    if done == len(times):
        return _Place(done, already, already * cost.seconds)
    began = float(times["seconds"].iloc[done - 1]) + asleep if done else 0.0
    size = int(times["pages_to_scan"].iloc[done])
    batches, rest = divmod(max(seconds - began, 0.0), size * cost.seconds + asleep)
    here = already + int(batches) * size + min(int(rest / cost.seconds), size)
    here = min(here, int(scanned.iloc[done]))
    return _Place(done, here, here * cost.seconds)

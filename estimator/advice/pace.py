"""How long the full scans of a forecast take, and the CPU time they need."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from estimator.advice.page_cost import PageCost
from estimator.advice.schedule import scan_time
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import Forecast
from estimator.snapshot.snapshot import Snapshot

SHARES = (0.5, 0.9, 0.99)
"""The parts of the saving whose time is told."""


@dataclass(frozen=True)
class Pace:
    """A forecast in time.

    ``scans``: those of the forecast, with ``seconds`` (from the start of ksmd to the end of the
    scan; without ``cost`` the time asleep alone, a lower bound) and ``cpu_seconds`` (of ksmd until
    then; null without ``cost``). ``marks``: for each of ``SHARES`` that the scans reach, its row of
    ``scans``.
    """

    pages_to_scan: int
    sleep_millisecs: int
    cost: PageCost | None
    scans: pd.DataFrame
    marks: dict[float, int]


def pace(
    snapshot: Snapshot,
    forecast: Forecast,
    pages_to_scan: int | None = None,
    sleep_millisecs: int | None = None,
    cost: PageCost | None = None,
) -> Pace:
    """When ksmd ends each scan; the settings that are None are those of the snapshot's kernel.

    Batches as in ``scan_time``. Raises CannotAnswerError if the snapshot does not say a setting.
    """
    ksm = snapshot.info["ksm"]
    pages_to_scan = _setting(ksm.get("pages_to_scan"), pages_to_scan, "pages-to-scan")
    sleep_millisecs = _setting(ksm.get("sleep_millisecs"), sleep_millisecs, "sleep")
    scanned = forecast.scans["pages_scanned"].diff().fillna(forecast.scans["pages_scanned"])
    each = [scan_time(int(n), pages_to_scan, sleep_millisecs, cost) for n in scanned]
    asleep_after_it = sleep_millisecs / 1000
    seconds = pd.Series([scan.seconds for scan in each]).cumsum() - asleep_after_it
    table = forecast.scans.assign(
        seconds=seconds,
        cpu_seconds=forecast.scans["pages_scanned"] * cost.seconds if cost else None,
    )
    return Pace(pages_to_scan, sleep_millisecs, cost, table, _marks(forecast))


def _setting(of_kernel: object, given: int | None, option: str) -> int:
    if given is not None:
        return given
    if not isinstance(of_kernel, int):
        raise CannotAnswerError(
            f"the snapshot does not say how ksmd is set: no time of a scan without --{option}"
        )
    return of_kernel


def _marks(forecast: Forecast) -> dict[float, int]:
    saved, whole = forecast.scans["bytes_saved"], forecast.at_rest.physical["bytes_saved"]
    reached = {share: saved >= share * whole for share in SHARES if whole > 0}
    return {
        share: int(there.to_numpy().argmax()) for share, there in reached.items() if there.any()
    }

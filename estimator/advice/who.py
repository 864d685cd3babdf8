"""Whose pages merge in which full scan."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from estimator.arrays import Ints, Mask
from estimator.ksm.forecast import Forecast
from estimator.ksm.prediction import Outcome
from estimator.ksm.scans import Scans
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import mapping_mm

Whose = Literal["process", "service"]


def who_merges(forecast: Forecast, by: Whose) -> pd.DataFrame:
    """One row per process or service with pages that merge, most first.

    Columns: pid and comm (of a process; else null), unit, and the lists ksm_merging_pages and
    ksm_zero_pages: after each scan of the forecast, in pages, as /proc/PID/ksm_stat shows them.
    """
    at_rest = forecast.at_rest
    snapshot, processes = at_rest.snapshot, at_rest.snapshot.processes
    units = pd.Series(units_of(processes["cgroup"])).to_numpy()
    keys = processes["pid"].to_numpy() if by == "process" else units
    number, names = pd.factorize(pd.Series(keys))
    first = np.zeros(len(names), np.int64)
    first[number[::-1]] = np.arange(len(number))[::-1]
    group = number[mapping_mm(snapshot)]
    scans = len(forecast.scans)
    counts = {
        name: _after_scans(
            group, forecast.settled_in, at_rest.outcome == outcome, len(names), scans
        )
        for name, outcome in (
            ("ksm_merging_pages", Outcome.MERGED),
            ("ksm_zero_pages", Outcome.ZERO_PAGE),
        )
    }
    total = counts["ksm_merging_pages"][:, -1] + counts["ksm_zero_pages"][:, -1]
    chosen = np.argsort(-total, kind="stable")
    chosen = chosen[total[chosen] > 0]
    of_process = by == "process"
    return pd.DataFrame(
        {
            "pid": processes["pid"].to_numpy()[first[chosen]] if of_process else None,
            "comm": processes["comm"].to_numpy()[first[chosen]] if of_process else None,
            "unit": units[first[chosen]],
            **{name: table[chosen].tolist() for name, table in counts.items()},
        }
    )


def _after_scans(group: Ints, settled_in: Scans, chosen: Mask, groups: int, scans: int) -> Ints:
    """i64 (groups, scans): how many of the ``chosen`` rows have settled by then."""
    rows = np.flatnonzero(chosen & (settled_in <= scans))
    place = group[rows] * (scans + 1) + settled_in[rows]
    counts = np.bincount(place, minlength=groups * (scans + 1)).reshape(groups, scans + 1)
    so_far: Ints = np.cumsum(counts, axis=1)[:, 1:]
    return so_far

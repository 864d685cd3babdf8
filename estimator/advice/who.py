"""Whose pages merge in which full scan."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from estimator.arrays import Ints
from estimator.ksm.forecast import Forecast
from estimator.ksm.prediction import Outcome
from estimator.snapshot.names import units_of
from estimator.snapshot.stored_table import in_pieces

Whose = Literal["process", "service"]

_COUNTERS = {"ksm_merging_pages": Outcome.MERGED, "ksm_zero_pages": Outcome.ZERO_PAGE}


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
    group_of_vma = number[snapshot.vmas["mm_id"].to_numpy()]
    scans = len(forecast.scans)
    counts = _after_scans(forecast, group_of_vma, len(names), scans)
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


def _after_scans(
    forecast: Forecast, group_of_vma: Ints, groups: int, scans: int
) -> dict[str, Ints]:
    """i64 (groups, scans) per counter: how many mappings of a group count by then."""
    outcome, settled_in = forecast.at_rest.outcome, forecast.settled_in
    counts = {name: np.zeros((groups, scans + 1), np.int64) for name in _COUNTERS}
    for piece, some in in_pieces(forecast.at_rest.snapshot.mappings, ("vma_id",)):
        group, in_scan = group_of_vma[some["vma_id"].to_numpy()], settled_in[piece]
        for name, wanted in _COUNTERS.items():
            chosen = (outcome[piece] == wanted) & (in_scan <= scans)
            np.add.at(counts[name], (group[chosen], in_scan[chosen]), 1)
    return {name: np.cumsum(table, axis=1)[:, 1:] for name, table in counts.items()}

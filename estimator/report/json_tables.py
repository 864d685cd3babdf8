"""The tables of a prediction as its JSON has them: what the model counts, and who gets what."""

from __future__ import annotations

import numpy as np
import pandas as pd

from estimator.advice.attribution import contributions, contributions_by
from estimator.ksm.prediction import Prediction
from estimator.snapshot.names import units_of, vma_labels

_GAINS = ["scanned_pages", "saved_pages", "net_bytes"]


def prediction_tables(prediction: Prediction) -> dict[str, pd.DataFrame]:
    """``processes``, ``vmas`` (those with candidate pages), ``cgroups``, ``units``, ``excluded``.

    To the columns that ``Prediction`` says come unit (of a process or cgroup), comm and label (of a
    VMA) and, from ``contributions``, scanned_pages, saved_pages (f64) and net_bytes (f64): those of
    the processes, units and VMAs each add up to ``physical``. All numbers and names, none missing.
    """
    gains = contributions(prediction.snapshot, prediction)
    processes, vmas = prediction.processes, prediction.vmas
    cgroups = prediction.cgroups.assign(unit=units_of(prediction.cgroups["cgroup"]))
    comm = processes.set_index("mm_id")["comm"]
    vmas = vmas.assign(comm=vmas["mm_id"].map(comm), label=vma_labels(vmas))
    vmas = _with(gains, vmas, "vma_id")
    return {
        "processes": _with(
            gains, processes.assign(unit=units_of(processes["cgroup"])), "mm_id"
        ).drop(columns="mm_id"),
        "vmas": vmas.drop(columns=["vma_id", "mm_id", "excluded_by"])[_touched(vmas)],
        "cgroups": _with(gains, cgroups, "cgroup"),
        "units": contributions_by(gains, ["unit"]),
        "excluded": prediction.excluded,
    }


def _touched(vmas: pd.DataFrame) -> pd.Series[bool]:
    pages = ["ksm_rmap_items", "ksm_zero_pages", "unknown_pages", "scanned_pages"]
    touched: pd.Series[bool] = (vmas[pages] > 0).any(axis=1) | (vmas["net_bytes"] != 0)
    return touched


def _with(gains: pd.DataFrame, table: pd.DataFrame, key: str) -> pd.DataFrame:
    """``table`` with the sums of ``_GAINS`` for each of its keys."""
    sums = gains.groupby(key)[_GAINS].sum().reindex(table[key], fill_value=0)
    return table.assign(**{name: np.asarray(sums[name].round(6)) for name in _GAINS})

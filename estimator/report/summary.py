"""The tables of a report of one prediction, computed once for text, HTML and notebook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from estimator.advice.attribution import (
    contributions,
    contributions_by,
    contributions_total,
    page_bytes,
)
from estimator.advice.borders import Borders, borders
from estimator.ksm.prediction import Prediction
from estimator.report.words import COUNTER_MEANINGS
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Summary:
    """Who brings what.

    ``units``, ``programs``, ``processes``, ``vma_names``: see ``contributions_by``; ``total``:
    ``contributions_total``. ``pairs``: of programs, see ``Prediction.pairs``. ``contents``: see
    ``Prediction.contents``.
    """

    page_bytes: int
    units: pd.DataFrame
    programs: pd.DataFrame
    processes: pd.DataFrame
    vma_names: pd.DataFrame
    total: dict[str, float]
    pairs: pd.DataFrame
    contents: pd.DataFrame
    between_processes: Borders


def summarize(snapshot: Snapshot, prediction: Prediction, contents: int = 10) -> Summary:
    """Everything to show about ``prediction``, with the ``contents`` most duplicated contents."""
    table = contributions(snapshot, prediction)
    return Summary(
        page_bytes=page_bytes(snapshot),
        units=contributions_by(table, ["unit", "cgroup"]),
        programs=contributions_by(table, ["comm"]),
        processes=contributions_by(table, ["pid", "comm", "unit", "uid"]),
        vma_names=contributions_by(table, ["label", "comm"]),
        total=contributions_total(table),
        pairs=prediction.pairs("program"),
        contents=prediction.contents(contents),
        between_processes=borders(snapshot, prediction, np.arange(len(snapshot.processes))),
    )


def counters_beside_now(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame:
    """counter, predicted, now (nullable Int64: the kernel's own at the snapshot), meaning."""
    now = snapshot.info["ksm"].get("counters", {})
    names = list(prediction.counters)
    return pd.DataFrame(
        {
            "counter": names,
            "predicted": [prediction.counters[name] for name in names],
            "now": pd.array([now.get(name) for name in names], dtype="Int64"),
            "meaning": [COUNTER_MEANINGS.get(name, "") for name in names],
        }
    )

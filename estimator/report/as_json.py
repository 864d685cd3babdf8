"""The stable JSON of a prediction: exact integers, in pages or bytes as the names say."""

from __future__ import annotations

from typing import Any

import pandas as pd

from estimator.ksm.prediction import Prediction

_PROCESS = [
    "pid",
    "comm",
    "cgroup",
    "uid",
    "ksm_rmap_items",
    "ksm_merging_pages",
    "ksm_zero_pages",
    "ksm_process_profit",
    "unknown_pages",
]
_VMA = [
    "pid",
    "start",
    "end",
    "name",
    "ksm_rmap_items",
    "ksm_merging_pages",
    "ksm_zero_pages",
    "unknown_pages",
]


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """``prediction`` as one JSON object; ``vmas`` are those that ksmd would scan."""
    scanned = prediction.vmas["excluded_by"].isna()
    return {
        "kernel": prediction.kernel,
        "policy": prediction.policy.to_json(),
        "coverage": prediction.coverage,
        "warnings": prediction.warnings,
        "counters": prediction.counters,
        "physical": prediction.physical,
        "processes": records(prediction.processes[_PROCESS]),
        "cgroups": records(prediction.cgroups),
        "vmas": records(prediction.vmas.loc[scanned, _VMA]),
        "excluded": records(prediction.excluded),
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``table`` as JSON objects, missing values as null."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in plain.to_dict("records")
    ]

"""Two predictions side by side: what changed, and which programs did it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from estimator.errors import UsageError

_AMOUNTS = ["ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages", "ksm_process_profit"]


@dataclass(frozen=True)
class Comparison:
    """What changed from A to B.

    ``numbers``: one row per counter and per physical quantity: number, a, b, change (Int64,
    null where one side does not have it). ``programs``: one row per comm and cgroup:
    comm, cgroup, and per amount (processes, ksm_rmap_items, ksm_merging_pages, ksm_zero_pages,
    ksm_process_profit) NAME_a, NAME_b, NAME_change; biggest change of profit first.
    ``settings``: what differs between the two what-ifs: setting, a, b.
    """

    numbers: pd.DataFrame
    programs: pd.DataFrame
    settings: pd.DataFrame


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Compare two predictions in their JSON form.

    Processes are matched by program and cgroup, because pids change between two snapshots.
    Raises UsageError if one of them is not the JSON of a prediction.
    """
    for name, side in (("first", a), ("second", b)):
        missing = [key for key in ("counters", "physical", "processes") if key not in side]
        if missing:
            raise UsageError(
                f"the {name} input is no prediction: it lacks {', '.join(missing)}",
                hint="make one with: ksm-estimator predict SNAPSHOT --json",
            )
    return Comparison(_numbers(a, b), _programs(a, b), _settings(a, b))


def _numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    left = {**a["physical"], **a["counters"]}
    right = {**b["physical"], **b["counters"]}
    names = list(dict.fromkeys([*left, *right]))
    table = pd.DataFrame(
        {
            "number": names,
            "a": pd.array([left.get(name) for name in names], dtype="Int64"),
            "b": pd.array([right.get(name) for name in names], dtype="Int64"),
        }
    )
    return table.assign(change=table["b"] - table["a"])


def _programs(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    keys = ["comm", "cgroup"]
    sides = []
    for side in (a, b):
        processes = pd.DataFrame(side["processes"], columns=["pid", *keys, *_AMOUNTS])
        grouped = processes.groupby(keys)
        sums = grouped[_AMOUNTS].sum()
        sums.insert(0, "processes", grouped["pid"].count())
        sides.append(sums.astype("int64"))
    table = sides[0].merge(sides[1], how="outer", on=keys, suffixes=("_a", "_b"))
    table = table.fillna(0).astype("int64")
    for amount in ["processes", *_AMOUNTS]:
        table[f"{amount}_change"] = table[f"{amount}_b"] - table[f"{amount}_a"]
    order = table["ksm_process_profit_change"].abs().sort_values(ascending=False, kind="stable")
    return table.loc[order.index].reset_index()


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for section in ("kernel", "policy"):
        left, right = a.get(section, {}), b.get(section, {})
        rows += [
            (f"{section}.{key}", left.get(key), right.get(key))
            for key in dict.fromkeys([*left, *right])
            if left.get(key) != right.get(key)
        ]
    return pd.DataFrame(rows, columns=["setting", "a", "b"])

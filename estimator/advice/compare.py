"""Two predictions side by side: what changed, and which programs did it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from estimator.errors import UsageError

_FACTS = {
    "origin": ("host", "boot_id", "machine_id", "source", "collected_at", "passes"),
    "kernel": ("release",),
    "coverage": ("hashed_share", "candidate_pages", "compared_pages"),
}
_AMOUNTS = ["ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages", "ksm_process_profit"]


@dataclass(frozen=True)
class Comparison:
    """What changed from A to B.

    ``numbers``: one row per counter and per physical quantity: number, a, b, change (Int64,
    null where one side does not have it). ``programs``: one row per comm and cgroup:
    comm, cgroup, and per amount (processes, ksm_rmap_items, ksm_merging_pages, ksm_zero_pages,
    ksm_process_profit) NAME_a, NAME_b, NAME_change; biggest change of profit first.
    ``origins``: of what pictures the two are and how much of these is known, equal or not: fact, a,
    b (JSON values, None where not known). ``settings``: what differs between the two kernels and
    what-ifs: setting, a, b (JSON values).
    """

    numbers: pd.DataFrame
    programs: pd.DataFrame
    origins: pd.DataFrame
    settings: pd.DataFrame


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Compare two predictions in their JSON form.

    Processes are matched by program and cgroup, because pids change between two snapshots.
    Raises UsageError if one of them is not the JSON of a prediction.
    """
    for name, side in (("first", a), ("second", b)):
        needed = ("counters", "physical", "processes")
        missing = [key for key in needed if not isinstance(side, Mapping) or key not in side]
        if missing:
            raise UsageError(
                f"the {name} input is no prediction: it lacks {', '.join(missing)}",
                hint="make one with: ksm-estimator predict SNAPSHOT --json",
            )
    return Comparison(_numbers(a, b), _programs(a, b), _origins(a, b), _settings(a, b))


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


def _origins(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        (name, *(side.get(section, {}).get(name) for side in (a, b)))
        for section, names in _FACTS.items()
        for name in names
    ]
    rows.append(("changed_pages", _changed(a), _changed(b)))
    return pd.DataFrame(rows, columns=["fact", "a", "b"], dtype=object)


def _changed(side: Mapping[str, Any]) -> int | None:
    """How many pages changed: not known, where there was no later look."""
    coverage = side.get("coverage", {})
    return None if coverage.get("compared_pages") is None else coverage.get("changed_pages")


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for section in ("kernel", "policy"):
        left, right = (json.loads(json.dumps(side.get(section, {}))) for side in (a, b))
        rows += [
            (f"{section}.{key}", left.get(key), right.get(key))
            for key in dict.fromkeys([*left, *right])
            if left.get(key) != right.get(key) and (section, key) != ("kernel", "release")
        ]
    return pd.DataFrame(rows, columns=["setting", "a", "b"], dtype=object)

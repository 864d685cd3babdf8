"""Two predictions side by side: what changed, and which programs did it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from estimator.advice.attribution import CREDIT_DIGITS
from estimator.advice.changed_contents import ChangedContents
from estimator.errors import UsageError

_FACTS = {
    "origin": ("host", "boot_id", "machine_id", "source", "collected_at", "passes"),
    "kernel": ("release", "uptime_seconds", "wall_clock"),
    "coverage": ("hashed_share", "candidate_pages", "compared_pages"),
}
_AMOUNTS = ["ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages", "ksm_process_profit"]
_CREDITS = ["saved_pages", "net_bytes"]


@dataclass(frozen=True)
class Comparison:
    """What changed from A to B.

    ``numbers``: one row per counter and per physical quantity: number, unit ("bytes", "pages", or
    "nodes" of the stable tree), a, b, change (Int64, null where one side does not have it).
    ``programs``: one row per comm and cgroup: comm, cgroup, and per amount (processes,
    ksm_rmap_items, ksm_merging_pages, ksm_zero_pages, ksm_process_profit, and f64 saved_pages,
    net_bytes) NAME_a, NAME_b, NAME_change; biggest change of net_bytes first. The f64 ones are NaN
    where one of the two is a file that lacks them.
    ``origins``: of what pictures the two are and how much of these is known, equal or not: fact, a,
    b (JSON values, None where not known). ``settings``: what differs between the two kernels and
    what-ifs: setting, a, b (JSON values).
    ``contents``: None: not known, because a file holds no contents or the two are not of one boot
    and hashed alike. ``asked``: the policy of each, as JSON values. ``page_bytes``: of A's kernel.
    """

    numbers: pd.DataFrame
    programs: pd.DataFrame
    origins: pd.DataFrame
    settings: pd.DataFrame
    contents: ChangedContents | None
    asked: dict[str, Any]
    page_bytes: int


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any], contents: ChangedContents | None = None
) -> Comparison:
    """Compare two predictions in their JSON form; ``contents``: from ``changed_contents``.

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
    return Comparison(
        _numbers(a, b),
        _programs(a, b),
        _origins(a, b),
        _settings(a, b),
        contents,
        {"a": a.get("policy"), "b": b.get("policy")},
        a.get("kernel", {}).get("page_size", 4096),
    )


def _numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    left = {**a["physical"], **a["counters"]}
    right = {**b["physical"], **b["counters"]}
    names = list(dict.fromkeys([*left, *right]))
    table = pd.DataFrame(
        {
            "number": names,
            "unit": [_unit(name) for name in names],
            "a": pd.array([left.get(name) for name in names], dtype="Int64"),
            "b": pd.array([right.get(name) for name in names], dtype="Int64"),
        }
    )
    return table.assign(change=table["b"] - table["a"])


def _unit(number: str) -> str:
    if "bytes" in number or number == "general_profit":
        return "bytes"
    return "nodes" if number.startswith("stable_node_") else "pages"


def _programs(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    keys = ["comm", "cgroup"]
    amounts = [*_AMOUNTS, *_CREDITS]
    sides, known = [], True
    for side in (a, b):
        processes = pd.DataFrame(side["processes"], columns=["pid", *keys, *amounts])
        known &= bool(processes[_CREDITS].notna().all(axis=None))
        grouped = processes.groupby(keys)
        sums = grouped[amounts].sum().round(CREDIT_DIGITS)
        sums.insert(0, "processes", grouped["pid"].count())
        sides.append(sums)
    table = sides[0].merge(sides[1], how="outer", on=keys, suffixes=("_a", "_b")).fillna(0)
    for amount in ["processes", *amounts]:
        kind = np.float64 if amount in _CREDITS else np.int64
        for name in (f"{amount}_a", f"{amount}_b"):
            table[name] = table[name].astype(kind)
        change = table[f"{amount}_b"] - table[f"{amount}_a"]
        table[f"{amount}_change"] = change.round(CREDIT_DIGITS)
        if amount in _CREDITS and not known:
            table[[f"{amount}_{which}" for which in ("a", "b", "change")]] = np.nan
    by = "net_bytes_change" if known else "ksm_process_profit_change"
    order = table[by].abs().sort_values(ascending=False, kind="stable")
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
    """How many pages changed: not known, where there was no other look."""
    coverage = side.get("coverage", {})
    return None if coverage.get("compared_pages") is None else coverage.get("changed_pages")


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for section in ("kernel", "policy"):
        left, right = (json.loads(json.dumps(side.get(section, {}))) for side in (a, b))
        rows += [
            (f"{section}.{key}", left.get(key), right.get(key))
            for key in dict.fromkeys([*left, *right])
            if left.get(key) != right.get(key) and key not in _FACTS.get(section, ())
        ]
    return pd.DataFrame(rows, columns=["setting", "a", "b"], dtype=object)

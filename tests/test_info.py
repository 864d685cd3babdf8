"""Values of snapshot.json that no collection writes: refused by name, or they do no harm."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from estimator.advice.pace import pacing_of
from estimator.errors import EstimatorError, TargetError
from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.as_json import prediction_json
from estimator.report.text import Tables, render_story
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.info import KINDS, wrong_values
from tests.systems import fork_server

COMPLETE: dict[str, Any] = {
    "format_version": 2,
    "program_version": "0.1.0",
    "kernel": {
        "release": "6.12.1",
        "machine": "x86_64",
        "page_size": 4096,
        "build_id": None,
        "uptime_seconds": 25.4,
        "wall_clock": "2026-11-30T19:49:37+00:00",
    },
    "source": {"kind": "core", "path": "vmcore", "format": "elf", "warnings": []},
    "host": "web",
    "boot_id": None,
    "machine_id": None,
    "collected_at": "2026-11-30T20:40:19+00:00",
    "collect_seconds": 12.4,
    "hash": {"name": "xxh3_64", "seed": 1 << 63, "seed_id": "eaaa"},
    "ksm": {
        "run": 0,
        "max_page_sharing": 256,
        "use_zero_pages": 0,
        "merge_across_nodes": 1,
        "smart_scan": 1,
        "pages_to_scan": 100,
        "sleep_millisecs": 20,
        "ksmd_cpu_ns": 5,
        "counters": {"pages_shared": 0, "ksm_zero_pages": -1, "full_scans": 0},
    },
    "sizes": {"ksm_mm_slot": 48, "ksm_rmap_item": 64, "ksm_stable_node": 64},
    "features_by_release": ["khugepaged_any_order"],
    "symbols": "BTF",
    "thp_enabled": "never",
    "thp_orders": {"always": 0, "madvise": 0, "inherit": 512},
    "damon_runs": False,
    "damon_awake": 0,
    "zero_page_tagged": False,
    "without_contents": False,
    "contents": "anonymous",
    "part_of_host": None,
    "unreadable_processes": ["a (7)"],
    "unknown": {"processes": 0, "anonymous_pages": 0},
    "not_known": {},
}
SNAPSHOT = fork_server()
VALUES: list[Any] = [None, -1, "text", 1 << 70, 1e300, [], {}, math.nan, [None], {"a": None}, True]


def complete() -> dict[str, Any]:
    made = copy.deepcopy(COMPLETE)
    made["features"] = dict(SNAPSHOT.info["features"])
    return made


def test_what_a_collection_writes_is_all_known() -> None:
    assert list(wrong_values(complete())) == []
    for way in KINDS:
        at: Any = complete()
        for name in way.split("."):
            at = at[name]


def test_another_shape_is_refused_at_once() -> None:
    others: list[Any] = [[], None, "text", 5]
    for info in others:
        assert list(wrong_values(info)) == ["snapshot.json is no object"]


@pytest.mark.parametrize("way", KINDS)
def test_no_value_of_another_kind_gets_through(way: str) -> None:
    *sections, last = way.split(".")
    for value in (*VALUES, "missing"):
        info = complete()
        at = info
        for name in sections:
            at = at[name]
        if value == "missing":
            del at[last]
        else:
            at[last] = value
        snapshot = replace(SNAPSHOT, info=info)
        if any(wrong_values(info)):
            with pytest.raises(TargetError, match=last):
                check_snapshot("web.ksm", snapshot)
            continue
        with contextlib.suppress(EstimatorError):
            check_snapshot("web.ksm", snapshot)
            found = predict(snapshot, Policy())
            json.dumps(prediction_json(found))
            render_story(snapshot, found, Console(file=StringIO()), Tables(top=3))
            forecast(snapshot, Policy())
            pacing_of(snapshot)

"""Answers as JSON: numbers in pages, bytes or seconds as the names say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from estimator.advice.attribution import CREDIT_DIGITS
from estimator.advice.compare import Comparison
from estimator.advice.moment import marks
from estimator.advice.pace import Pace
from estimator.advice.plan import Plan
from estimator.advice.risk import Risk
from estimator.advice.schedule import Schedule, scan_time_now
from estimator.advice.verify import Verification
from estimator.ksm.prediction import Prediction
from estimator.ksm.sharing import KEYS
from estimator.ksm.upper_bound import UpperBound
from estimator.report.commands import opt_in_commands, settings_commands
from estimator.report.json_tables import prediction_tables
from estimator.report.words import COUNTER_MEANINGS
from estimator.snapshot.snapshot import Snapshot

FORMAT_VERSION = 1
"""Of the JSON of a prediction, see docs/schemas. Fields may be added to it."""

_MOST_CONTENTS = _MOST_PAIRS = 100
_ROWS_AT_ONCE = 4096  # 1 MiB of JSON, in memory that is used again


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``table`` as JSON objects, missing values as null."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in plain.to_dict("records")
    ]


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """The prediction as JSON values, in bytes and pages: docs/schemas/prediction.schema.json.

    Integers are exact; what is credited (saved_pages, net_bytes) has fractions.
    """
    tables = {
        name: [dict(zip(table, row, strict=True)) for row in zip(*_columns(table), strict=True)]
        for name, table in prediction_tables(prediction).items()
    }
    return _values(prediction) | tables


def bound_json(snapshot: Snapshot, bound: UpperBound) -> dict[str, Any]:
    """An upper bound as JSON values, in the form of a prediction: null is what is not known."""
    scan = scan_time_now(snapshot, bound.coverage.candidate_pages)
    ledger = dataclasses.asdict(bound.ledger)
    return {
        "format_version": FORMAT_VERSION,
        "kernel": bound.kernel,
        "origin": bound.origin,
        "policy": bound.policy.to_json(),
        "coverage": bound.coverage.to_json(),
        "warnings": bound.warnings,
        "counters": dict.fromkeys(COUNTER_MEANINGS),
        "physical": {
            "frames_before": bound.frames_before,
            **dict.fromkeys(("frames_after", "frames_freed", "bytes_saved", "net_bytes_saved")),
        },
        "upper_bound": ledger
        | {
            "frames_freed": bound.ledger.frames_freed,
            "bytes_freed": bound.bytes_freed,
            "rmap_items_bytes": bound.rmap_items_bytes,
        },
        "full_scan": None if scan is None else dataclasses.asdict(scan) | {"batches": scan.batches},
        "processes": records(bound.processes.drop(columns="mm_id")),
        "vmas": records(
            bound.vmas[bound.vmas["excluded_by"].isna()].drop(
                columns=["vma_id", "mm_id", "excluded_by"]
            )
        ),
        "cgroups": records(bound.cgroups),
        "excluded": records(bound.excluded),
    }


def prediction_json_parts(prediction: Prediction) -> Iterator[bytes | memoryview]:
    """``prediction_json`` as text, part after part, much faster where there are many VMAs."""
    yield json.dumps(_values(prediction))[:-1].encode()
    for name, table in prediction_tables(prediction).items():
        yield f', "{name}": ['.encode()
        yield from _records(table)
        yield b"]"
    yield b"}"


def plan_json(plan: Plan, schedule: Schedule, risk: Risk) -> dict[str, Any]:
    """The plan, the settings and the risk as one JSON object."""
    rows = records(plan.lines.round(CREDIT_DIGITS))
    return answer_json(plan.everything) | {
        "share": plan.share,
        "within": plan.within,
        "only": plan.only,
        "share_reached": plan.share_reached,
        "worth_bytes": plan.worth_bytes,
        "host": dataclasses.asdict(plan.host),
        "lines": [
            line | {"commands": commands}
            for line, commands in zip(rows, opt_in_commands(plan), strict=True)
        ],
        "on_elsewhere": records(plan.elsewhere.round(CREDIT_DIGITS)),
        "counters": plan.prediction.counters,
        "physical": plan.prediction.physical,
        "within_pages": plan.within_pages,
        "everything": {
            "counters": plan.everything.counters,
            "physical": plan.everything.physical,
        },
        "frontier": records(plan.frontier),
        "schedule": _schedule_json(schedule),
        "risk": {
            "borders": records(risk.borders),
            "pairs": records(risk.pairs),
            "poor_candidates": records(risk.poor_candidates),
            "effects": dataclasses.asdict(risk.effects),
        },
        "warnings": plan.prediction.warnings,
    }


def _schedule_json(schedule: Schedule) -> dict[str, Any]:
    """``as_set`` and ``as_proposed``: least and most until all has merged, null if that is far."""
    found = schedule.forecast
    scans = found.at_rest.scans

    def course(pace: Pace) -> dict[str, Any]:
        there = scans <= len(pace.scans)
        return {
            "marks": [dataclasses.asdict(mark) for mark in marks(found, pace)],
            **{
                name: pace.range_of(name, scans - 1) if there else None
                for name in ("seconds", "cpu_seconds")
            },
        }

    times = ("cost", "first", "proposed", "at_rest", "advisor", "advised")
    found_times = {name: getattr(schedule, name) for name in times}
    return {
        "target_seconds": schedule.target_seconds,
        "running": schedule.running,
        **{name: value and dataclasses.asdict(value) for name, value in found_times.items()},
        "scans": scans,
        "as_set": course(schedule.as_set),
        "as_proposed": course(schedule.as_proposed),
        "commands": settings_commands(schedule),
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """What changed between two predictions as one JSON object."""
    contents = comparison.contents
    return {
        "asked": comparison.asked,
        "page_bytes": comparison.page_bytes,
        "numbers": records(comparison.numbers),
        "programs": records(comparison.programs),
        "origins": comparison.origins.to_dict("records"),
        "settings": comparison.settings.to_dict("records"),
        "changed_contents": None if contents is None else records(contents.by_vma),
        "not_compared": None if contents is None else records(contents.not_compared),
    }


def verification_json(prediction: Prediction, verification: Verification) -> dict[str, Any]:
    """Prediction and reality as one JSON object."""
    cost = verification.page_cost
    return answer_json(prediction) | {
        "counters": records(verification.counters),
        "processes": records(verification.processes),
        "gone": verification.gone,
        "caveats": verification.caveats,
        "settled": verification.settled,
        "page_cost": dataclasses.asdict(cost) if cost else None,
    }


def answer_json(prediction: Prediction) -> dict[str, Any]:
    """What every answer from ``prediction`` says of itself, as JSON values."""
    return {
        "kernel": prediction.kernel,
        "origin": prediction.origin,
        "policy": prediction.policy.to_json(),
        "coverage": prediction.coverage.to_json(),
        "warnings": prediction.warnings,
    }


def _values(prediction: Prediction) -> dict[str, Any]:
    pairs = {
        by: records(prediction.pairs(by).head(_MOST_PAIRS).round(CREDIT_DIGITS)) for by in KEYS
    }
    return {
        "format_version": FORMAT_VERSION,
        **answer_json(prediction),
        "counters": prediction.counters,
        "physical": prediction.physical,
        "scans": prediction.scans,
        "smart_scan": prediction.smart_scan,
        "khugepaged": dataclasses.asdict(prediction.khugepaged) if prediction.khugepaged else None,
        "unmerged_readings": prediction.unmerged_readings(),
        "contents": records(
            prediction.contents(_MOST_CONTENTS).round({"saved_pages": CREDIT_DIGITS})
        ),
        "pairs": pairs,
    }


def _columns(table: pd.DataFrame) -> list[list[Any]]:
    return [table[name].tolist() for name in table]


def _records(table: pd.DataFrame) -> Iterator[bytes | memoryview]:
    """The rows of a table of numbers and names as JSON objects, with commas between them."""
    if table.empty:
        return
    parts: list[Any] = []
    text = "{"
    for name, column in table.items():
        text += f"{json.dumps(name)}:"
        values = column.to_numpy()
        if (values[1:] == values[:-1]).all():
            text += f"{json.dumps(values[:1].tolist()[0])},"
        else:
            parts += [text, _json_values(column)]
            text = ","
    text = text.rstrip(",") + "}"
    if not parts:
        yield ",".join([text] * len(table)).encode()
        return
    for start in range(0, len(table), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        here = [part if isinstance(part, str) else part[rows] for part in parts]
        joined = pc.binary_join_element_wise(*here, text + ",", "")
        written = memoryview(joined.buffers()[2])  # Arrow keeps one after the other
        yield written if rows.stop < len(table) else written[:-1]


def _json_values(column: pd.Series[Any]) -> pa.Array:
    if column.dtype.kind in "iu":
        return pa.array(column.to_numpy()).cast(pa.string())
    codes, names = pd.factorize(column)
    return pa.array([json.dumps(name) for name in names], pa.string()).take(pa.array(codes))

"""Answers as JSON: exact integers, in pages, bytes or seconds as the names say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

from estimator.advice.compare import Comparison
from estimator.advice.plan import Plan
from estimator.advice.risk import Risk
from estimator.advice.schedule import Schedule
from estimator.advice.verify import Verification
from estimator.report.commands import opt_in_commands, settings_commands


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``table`` as JSON objects, missing values as null."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in plain.to_dict("records")
    ]


def plan_json(plan: Plan, schedule: Schedule, risk: Risk) -> dict[str, Any]:
    """The plan, the settings and the risk as one JSON object."""
    return {
        "share": plan.share,
        "within": plan.within,
        "lines": [
            line | {"commands": commands}
            for line, commands in zip(records(plan.lines), opt_in_commands(plan.lines), strict=True)
        ],
        "coverage": plan.everything.coverage.to_json(),
        "counters": plan.prediction.counters,
        "physical": plan.prediction.physical,
        "within_pages": plan.within_pages,
        "everything": {
            "counters": plan.everything.counters,
            "physical": plan.everything.physical,
        },
        "frontier": records(plan.frontier),
        "schedule": dataclasses.asdict(schedule) | {"commands": settings_commands(schedule)},
        "risk": {
            "borders": records(risk.borders),
            "pairs": records(risk.pairs),
            "poor_candidates": records(risk.poor_candidates),
        },
        "warnings": plan.prediction.warnings,
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """What changed between two predictions as one JSON object."""
    return {
        "numbers": records(comparison.numbers),
        "programs": records(comparison.programs),
        "settings": records(comparison.settings),
    }


def verification_json(verification: Verification) -> dict[str, Any]:
    """Prediction and reality as one JSON object."""
    cost = verification.page_cost
    return {
        "counters": records(verification.counters),
        "processes": records(verification.processes),
        "gone": verification.gone,
        "caveats": verification.caveats,
        "page_cost": dataclasses.asdict(cost) if cost else None,
    }

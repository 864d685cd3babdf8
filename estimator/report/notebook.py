"""Reports in a notebook: tables as HTML there, text anywhere else."""

from __future__ import annotations

import io
from dataclasses import dataclass

from estimator.advice.compare import Comparison
from estimator.advice.page_cost import PageCost
from estimator.advice.plan import Plan
from estimator.advice.risk import assess
from estimator.advice.schedule import TARGET_SCAN_SECONDS, schedule
from estimator.ksm.prediction import Prediction
from estimator.ksm.upper_bound import UpperBound
from estimator.report.bound_sections import bound_sections
from estimator.report.compare_sections import comparison_sections
from estimator.report.plan_sections import advice_sections
from estimator.report.prediction_sections import Section, prediction_sections
from estimator.report.tables import make_console
from estimator.report.text import print_sections
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True, repr=False)
class Display:
    """A report that shows itself."""

    sections: list[Section]

    def __repr__(self) -> str:
        """The report as text of 100 columns."""
        file = io.StringIO()
        print_sections(self.sections, make_console(file, width=100))
        return file.getvalue()

    def _repr_html_(self) -> str:
        """The report as a piece of HTML; needs the extra ``report``."""
        from estimator.report.html import fragment

        return fragment(self.sections)


def show_prediction(snapshot: Snapshot, prediction: Prediction) -> Display:
    """The report of one prediction."""
    return Display(prediction_sections(snapshot, prediction))


def show_upper_bound(snapshot: Snapshot, bound: UpperBound) -> Display:
    """The report of a snapshot without page contents."""
    return Display(bound_sections(snapshot, bound))


def show_plan(
    snapshot: Snapshot,
    plan: Plan,
    scan_seconds: float = TARGET_SCAN_SECONDS,
    cost: PageCost | None = None,
) -> Display:
    """A plan with its settings for a full scan in ``scan_seconds`` and its risk."""
    times = schedule(snapshot, plan.prediction, scan_seconds, cost)
    risk = assess(snapshot, plan.prediction)
    return Display(advice_sections(snapshot, plan, times, risk))


def show_comparison(comparison: Comparison) -> Display:
    """What changed between two predictions."""
    return Display(comparison_sections(comparison))

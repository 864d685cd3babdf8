"""Reports as text: on a terminal of any width, and in a pipe."""

from __future__ import annotations

from rich.console import Console

from estimator.advice.compare import Comparison
from estimator.advice.plan import Plan
from estimator.advice.risk import Risk
from estimator.advice.schedule import Schedule
from estimator.advice.verify import Verification
from estimator.ksm.prediction import Prediction
from estimator.ksm.upper_bound import UpperBound
from estimator.report.bound_sections import bound_sections
from estimator.report.compare_sections import comparison_sections, verification_sections
from estimator.report.plan_sections import plan_sections
from estimator.report.prediction_sections import WARNINGS, Section, prediction_sections
from estimator.report.tables import bullets, heading, prose, table, verbatim
from estimator.snapshot.snapshot import Snapshot


def render(snapshot: Snapshot, prediction: Prediction, console: Console) -> None:
    """Print the report of ``prediction`` on ``console``: verdict first, details after."""
    print_sections(prediction_sections(snapshot, prediction), console)


def render_bound(snapshot: Snapshot, bound: UpperBound, console: Console) -> None:
    """Print what is known where page contents were left out."""
    print_sections(bound_sections(snapshot, bound), console)


def render_plan(
    snapshot: Snapshot, plan: Plan, schedule: Schedule, risk: Risk, console: Console
) -> None:
    """Print what to opt in, how to set ksmd, and what risk comes with it."""
    print_sections(plan_sections(snapshot, plan, schedule, risk), console)


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print what changed from A to B and which programs did it."""
    print_sections(comparison_sections(comparison), console)


def render_verification(verification: Verification, console: Console) -> None:
    """Print prediction and reality side by side."""
    print_sections(verification_sections(verification), console)


def print_sections(sections: list[Section], console: Console) -> None:
    """Print ``sections``, the first of them as the headline."""
    for place, section in enumerate(sections):
        if place:
            heading(console, section.title)
        else:
            prose(console, section.title, style="bold")
        if section.rows is not None:
            table(console, section.rows, section.columns, section.limit, section.total)
        bullets(console, section.bullets, style="yellow" if section.title == WARNINGS else "")
        if section.note:
            prose(console, section.note)
        if section.commands:
            verbatim(console, section.commands)

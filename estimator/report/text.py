"""Reports as text: on a terminal of any width, and in a pipe.

What one of them needs alone is imported where it is printed: a small answer is mostly start-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from estimator.errors import UsageError
from estimator.report.asked import question_words, when_words
from estimator.report.prediction_sections import (
    WARNINGS,
    Section,
    counter_sections,
    prediction_sections,
    story_sections,
)
from estimator.report.tables import bullets, heading, prose, table, verbatim

if TYPE_CHECKING:
    from estimator.advice.compare import Comparison
    from estimator.advice.plan import Plan
    from estimator.advice.risk import Risk
    from estimator.advice.schedule import Schedule
    from estimator.advice.verify import Verification
    from estimator.ksm.policy import Policy
    from estimator.ksm.prediction import Prediction
    from estimator.ksm.upper_bound import UpperBound
    from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Tables:
    """How tables are shown: ``top`` rows of each (None: as many as usual; 0: all), by ``sort``.

    ``sort`` is the title of a column; tables that lack it keep their order. ``more``: how to see
    the rows that are left out.
    """

    top: int | None = None
    sort: str | None = None
    more: str = ""


_USUAL = Tables()


def render(snapshot: Snapshot, prediction: Prediction, console: Console) -> None:
    """Print all of ``prediction`` on ``console``: verdict first, details after."""
    asked = question_words(snapshot.info, prediction.policy.to_json())
    print_sections(prediction_sections(snapshot, prediction), console, asked)


def render_counters(
    snapshot: Snapshot, prediction: Prediction, console: Console, later: Snapshot | None = None
) -> None:
    """Print what ksmd would show: verdict first, then the counters. ``later``: a second look."""
    asked = question_words(snapshot.info, prediction.policy.to_json())
    if later is not None:
        asked.append(f"Compared with a later look, {when_words(later.info)}.")
    print_sections(counter_sections(snapshot, prediction), console, asked)


def render_story(
    snapshot: Snapshot, prediction: Prediction, console: Console, tables: Tables = _USUAL
) -> None:
    """Print who brings what: verdict first, then contributors, contents, and what else is alike.

    Raises UsageError for a column that none of the tables has.
    """
    from estimator.advice.alike import alike
    from estimator.report.alike_sections import alike_sections

    asked = question_words(snapshot.info, prediction.policy.to_json())
    sections = [*story_sections(snapshot, prediction), *alike_sections(alike(snapshot, prediction))]
    print_sections(sections, console, asked, tables)


def render_bound(
    snapshot: Snapshot, bound: UpperBound, console: Console, tables: Tables = _USUAL
) -> None:
    """Print what is known where page contents were left out."""
    from estimator.report.bound_sections import bound_sections

    asked = question_words(snapshot.info, bound.policy.to_json())
    print_sections(bound_sections(snapshot, bound), console, asked, tables)


def render_plan(
    snapshot: Snapshot,
    plan: Plan,
    schedule: Schedule,
    risk: Risk,
    console: Console,
    tables: Tables = _USUAL,
) -> None:
    """Print what to opt in, how to set ksmd, and what risk comes with it."""
    from estimator.report.plan_sections import advice_sections

    asked = question_words(snapshot.info, plan.everything.policy.to_json())
    print_sections(advice_sections(snapshot, plan, schedule, risk), console, asked, tables)


def render_comparison(
    comparison: Comparison,
    console: Console,
    asked: Sequence[str] = (),
    tables: Tables = _USUAL,
) -> None:
    """Print what changed from A to B and which programs did it; ``asked``: of each of the two."""
    from estimator.report.compare_sections import comparison_sections

    print_sections(comparison_sections(comparison), console, asked, tables)


def render_verification(
    snapshot: Snapshot,
    policy: Policy,
    verification: Verification,
    console: Console,
    tables: Tables = _USUAL,
) -> None:
    """Print prediction and reality side by side."""
    from estimator.report.compare_sections import verification_sections

    asked = question_words(snapshot.info, policy.to_json())
    print_sections(verification_sections(verification), console, asked, tables)


def print_sections(
    sections: list[Section],
    console: Console,
    asked: Sequence[str] = (),
    tables: Tables = _USUAL,
) -> None:
    """Print ``sections``, the first of them as the headline, with ``asked`` below it."""
    if tables.sort:
        sections = _sorted(sections, tables.sort)
    for place, section in enumerate(sections):
        if place:
            heading(console, section.title)
        else:
            prose(console, section.title, style="bold")
            for line in filter(None, (section.note, *asked)):
                prose(console, line)
        if section.rows is not None:
            limit = section.limit if tables.top is None else tables.top or len(section.rows)
            table(console, section.rows, section.columns, limit, section.total, tables.more)
        bullets(console, section.bullets, style="yellow" if section.title == WARNINGS else "")
        if place and section.note:
            prose(console, section.note)
        if section.commands:
            verbatim(console, section.commands)


def _sorted(sections: list[Section], title: str) -> list[Section]:
    """With the rows of each table by the column ``title``: big numbers first, names from A."""
    found = False
    done = []
    for section in sections:
        column = next((c for c in section.columns if c.title == title), None)
        if column and section.rows is not None:
            found = True
            rows = section.rows.sort_values(
                column.source, ascending=not column.number, kind="stable", ignore_index=True
            )
            section = replace(section, rows=rows)
        done.append(section)
    if not found:
        titles = dict.fromkeys(c.title for s in sections for c in s.columns if c.title)
        raise UsageError(f"no table has a column {title!r}", hint=f"they have {', '.join(titles)}")
    return done

"""A report as one HTML file that needs no network: for a browser, a phone, and paper.

Jinja2 escapes every name: they come from the processes themselves. A content security policy
allows the file's own script and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from estimator.advice.alike import Alike, alike
from estimator.advice.attribution import (
    contributions,
    contributions_by,
    page_bytes,
    scanned_pages,
)
from estimator.advice.plan import Plan
from estimator.advice.risk import Risk
from estimator.advice.schedule import Schedule
from estimator.ksm.policy import Policy
from estimator.ksm.prediction import Prediction
from estimator.ksm.upper_bound import UpperBound
from estimator.report.alike_sections import alike_sections
from estimator.report.asked import host_words, question_words
from estimator.report.bound_sections import bound_sections
from estimator.report.forecast_plots import over_time_figure
from estimator.report.plan_sections import plan_sections
from estimator.report.plots import (
    contribution_figure,
    frontier_figure,
    page_size_figure,
    sharing_figure,
    sharing_matrix,
)
from estimator.report.prediction_sections import Section, prediction_sections
from estimator.report.tables import Column, total_cells
from estimator.snapshot.snapshot import Snapshot
from estimator.units import count, printable

_Figures = tuple[str, dict[str, Figure]]
"""Title and forms of a picture."""

MAX_ROWS = 1000
"""Rows per table: enough to look through, few enough that the file stays below 5 MB."""


@dataclass(frozen=True)
class Shown:
    """What the page has of a prediction. ``figures``: title, and forms by name."""

    policy: Policy
    verdict: Section
    report: list[Section]
    figures: list[_Figures]
    by_page_size: list[_Figures]


def shown(snapshot: Snapshot, prediction: Prediction, plan: Plan) -> Shown:
    """All that needs the rows of ``prediction``; no figures where ksmd finds nothing to scan."""
    verdict, *report = prediction_sections(snapshot, prediction)
    if not scanned_pages(prediction):
        return Shown(prediction.policy, verdict, report, [], [])
    prediction.forget()  # what lies in larger pages takes as much
    found = alike(snapshot, prediction)
    return Shown(
        prediction.policy,
        verdict,
        report + alike_sections(found),
        _figures(snapshot, prediction, plan),
        [_by_page_size(found)] if found.copies.mapped else [],
    )


def report_page(
    snapshot: Snapshot,
    prediction: Prediction,
    plan: Plan,
    schedule: Schedule,
    risk: Risk,
) -> str:
    """The whole report as an HTML document; without figures where ksmd finds nothing to scan."""
    return page_with_plan(snapshot, shown(snapshot, prediction, plan), plan, schedule, risk)


def page_with_plan(
    snapshot: Snapshot, found: Shown, plan: Plan, schedule: Schedule, risk: Risk
) -> str:
    """The same of what ``shown`` found: nothing is asked of rows but those of the forecast."""
    figures = found.figures
    if figures:
        figures = [*figures, _over_time(schedule), *found.by_page_size]
    return _page(
        snapshot,
        found.policy,
        found.verdict,
        found.report,
        [
            (title, {place: svg(figure, f"{n} {place}") for place, figure in forms.items()})
            for n, (title, forms) in enumerate(figures)
        ],
        plan_sections(snapshot, plan, schedule, risk),
    )


def _figures(snapshot: Snapshot, prediction: Prediction, plan: Plan) -> list[_Figures]:
    """Title and forms of each picture: for a screen, and for a phone, where a whole one scrolls.

    ``report.css`` shows the form that fits.
    """
    units = contributions_by(contributions(snapshot, prediction), ["unit"])
    sharing = sharing_matrix(snapshot, prediction)
    widths = {"wide": False, "narrow": True}
    return [
        (
            "How much scanning buys how much saving",
            {form: frontier_figure(snapshot, plan, narrow=n) for form, n in widths.items()},
        ),
        (
            "Services",
            {
                form: contribution_figure(units, "unit", page_bytes(snapshot), narrow=n)
                for form, n in widths.items()
            },
        ),
        (
            "Which processes save memory with which",
            {
                "wide": sharing_figure(*sharing),
                "narrow whole": sharing_figure(*sharing, narrow=True),
            },
        ),
    ]


def _by_page_size(found: Alike) -> _Figures:
    return (
        "What pages of other sizes would share",
        {
            form: page_size_figure(found.page_sizes, found.page_bytes, narrow=n)
            for form, n in {"wide": False, "narrow": True}.items()
        },
    )


def _over_time(schedule: Schedule) -> _Figures:
    found, pace = schedule.forecast, schedule.as_proposed
    return (
        f"The plan over time, with pages_to_scan {count(pace.pacing.pages_to_scan)} and "
        f"sleep_millisecs {count(pace.pacing.sleep_millisecs)}",
        {
            form: over_time_figure(found, pace, narrow=n)
            for form, n in {"wide": False, "narrow": True}.items()
        },
    )


def _page(
    snapshot: Snapshot,
    policy: Policy,
    verdict: Section,
    report: list[Section],
    figures: list[tuple[str, dict[str, Markup]]],
    plan: list[Section],
) -> str:
    title = printable(f"KSM on {host_words(snapshot.info)}")
    asked = question_words(snapshot.info, policy.to_json())
    return page_of(title, asked, verdict, report, figures, plan)


def page_of(
    title: str,
    asked: list[str],
    verdict: Section,
    report: list[Section],
    figures: list[tuple[str, dict[str, Markup]]],
    plan: list[Section],
) -> str:
    """An HTML document: ``figures`` are titles, each with its forms by class (see ``svg``)."""
    script = _resource("report.js")
    return _template("report.html.j2").render(
        title=title,
        asked=asked,
        style=Markup(_resource("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        verdict=verdict,
        figures=figures,
        report=report,
        plan=plan,
    )


def bound_page(snapshot: Snapshot, bound: UpperBound) -> str:
    """The report of a snapshot without page contents as an HTML document: no figures, no plan."""
    verdict, *report = bound_sections(snapshot, bound)
    return _page(snapshot, bound.policy, verdict, report, [], [])


def fragment(sections: list[Section]) -> str:
    """``sections`` as a piece of HTML in the style of the notebook around it, without a script."""
    style = Markup(_resource("fragment.css"))
    return _template("fragment.html.j2").render(style=style, sections=sections)


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("estimator.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        cells=_cells, total_cells=total_cells, shown=_shown_rows, max_rows=MAX_ROWS
    )
    return environment.get_template(name)


def _resource(name: str) -> str:
    return files("estimator.report").joinpath("templates", name).read_text()


def _shown_rows(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    return rows.head(MAX_ROWS).to_dict("records")


def _cells(row: dict[str, Any], columns: list[Column]) -> Iterator[tuple[str, str, str, bool]]:
    """Of every cell: its title, what to show, the exact number, and whether it has one.

    Memory is in bytes there.
    """
    for column in columns:
        value = row[column.source]
        key = ""
        if column.number and not pd.isna(value):
            number = float(value) * (column.unit_bytes or 1)
            key = f"{round(number, 4):.15g}" if math.isfinite(number) else ""
        yield column.title, column.show(value), key, column.number


def svg(figure: Figure, salt: str) -> Markup:
    """``figure`` as an SVG element, the same for the same data; ``salt``: of its ids."""
    buffer = io.StringIO()
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    ):
        metadata = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])

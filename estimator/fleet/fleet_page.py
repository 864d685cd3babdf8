"""The answer for a fleet as one HTML file, with its distributions as pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estimator.fleet.fleet_sections import asked_words, fleet_sections
from estimator.fleet.overcommit import Overcommit
from estimator.fleet.summary import Summary
from estimator.report.html import page_of, svg
from estimator.report.plots import BLUE, GREEN, GREY, NARROW_INCHES, WIDE_INCHES

_GIB = 2**30
_BINS = 40


def fleet_page(summary: Summary, asked: Overcommit | None = None) -> str:
    """An HTML document that needs no network."""
    verdict, *rest = fleet_sections(summary, asked)
    figures = []
    for title, draw in (
        ("How many hosts save which part of their anonymous memory", _shares),
        ("What to opt in, and what ksmd scans for it", _frontier),
        ("What must be free if merged pages are written", _overcommit),
    ):
        forms = {"wide": False, "narrow": True}
        pictures = {form: svg(draw(summary, n), f"{title} {form}") for form, n in forms.items()}
        figures.append((title, pictures))
    return page_of("KSM on a fleet", asked_words(summary), verdict, rest, figures, [])


def _axes(narrow: bool) -> tuple[Figure, Axes]:
    size = (NARROW_INCHES, 3.2) if narrow else (WIDE_INCHES, 3.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _shares(summary: Summary, narrow: bool) -> Figure:
    figure, axes = _axes(narrow)
    known = summary.hosts[summary.hosts["share"].notna()]
    roles = known["role"].fillna("(no role)")
    biggest = roles.value_counts().index[:5].tolist()
    groups = [100 * known.loc[roles == role, "share"] for role in biggest]
    names = [f"{role} ({len(group):,})" for role, group in zip(biggest, groups, strict=True)]
    if others := [share * 100 for share in known.loc[~roles.isin(biggest), "share"]]:
        groups.append(others)
        names.append(f"others ({len(others):,})")
    edges = np.histogram_bin_edges(100 * known["share"].to_numpy(np.float64), _BINS).tolist()
    axes.hist(groups, bins=edges, stacked=True, label=names)
    axes.set_xlabel("% of anonymous memory, net")
    axes.set_ylabel("hosts")
    figure.legend(frameon=False, loc="outside upper center", ncols=1 if narrow else 3)
    return figure


def _frontier(summary: Summary, narrow: bool) -> Figure:
    figure, axes = _axes(narrow)
    steps = summary.frontier
    scanned = np.concatenate([[0.0], steps["cores_most"]])
    axes.plot(scanned, np.concatenate([[0], steps["net_bytes"]]) / _GIB, color=BLUE, marker=".")
    axes.set_xlabel("CPU cores of all hosts while merging, at most")
    axes.set_ylabel("saved, net (GiB)")
    axes.grid(alpha=0.3)
    return figure


def _overcommit(summary: Summary, narrow: bool) -> Figure:
    figure, axes = _axes(narrow)
    curve = summary.overcommit
    percent = np.concatenate([[0], curve["percent"]])
    for name, label, color in (
        ("needed_max_bytes", "the worst host", BLUE),
        ("needed_p50_bytes", "half of the hosts: up to", GREEN),
    ):
        needed = np.concatenate([[0], curve[name]]) / _GIB
        axes.plot(percent, needed, color=color, marker=".", label=label)
    if summary.written_per_minute is not None:
        axes.axvline(summary.written_per_minute, color=GREY, label="measured, in a minute")
    axes.set_xlabel("% of the merged pages written")
    axes.set_ylabel("GiB that must be free")
    axes.legend(frameon=False)
    return figure

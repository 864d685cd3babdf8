"""Pictures of a forecast, as matplotlib figures: what ksmd saves over time, and what that takes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from estimator.advice.moment import marks, moment
from estimator.advice.pace import Pace
from estimator.ksm.forecast import Forecast
from estimator.report.plots import BLUE, GREEN, GREY, NARROW_INCHES, WIDE_INCHES
from estimator.units import count, human_seconds, percent

_MIB, _STEPS = 2**20, 120
_MOST_SCANS = 40


def over_time_figure(forecast: Forecast, pace: Pace, *, narrow: bool = False) -> Figure:
    """Memory saved and CPU used against time, and pages visited and skipped in each full scan.

    Bands where a page may cost more or less, and where numbers have bounds: the line is what is
    told of the end of each scan then, else the least. Green: 50, 90 and 99 % of the saving, if a
    page costs the most. ``narrow``: as wide as a phone, with letters of the same size.
    """
    width = NARROW_INCHES if narrow else WIDE_INCHES
    figure = Figure(figsize=(width, 5.6), layout="constrained")
    saved, cpu, scans = figure.subplots(3, height_ratios=(2, 1, 1))
    _against_time(forecast, pace, saved, cpu, narrow=narrow)
    _scan_by_scan(pace, scans, narrow=narrow)
    for axes in (saved, cpu, scans):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3, axis="y" if axes is scans else "both")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _against_time(forecast: Forecast, pace: Pace, saved: Axes, cpu: Axes, *, narrow: bool) -> None:
    times = np.linspace(0, float(pace.scans["seconds"].iloc[-1]), _STEPS)
    there = [moment(forecast, pace, seconds, ["bytes_saved"]) for seconds in times.tolist()]
    low, high = (
        np.array([found.counters["bytes_saved"][end] for found in there]) / _MIB for end in (0, 1)
    )
    saved.fill_between(times, low, high, color=BLUE, alpha=0.25, linewidth=0)
    if forecast.bounds.reasons:
        ends = pace.scans[["seconds", "bytes_saved"]].to_numpy() / (1, _MIB)
        saved.step(*np.vstack([(0.0, 0.0), ends]).T, where="post", color=BLUE)
    else:
        saved.plot(times, low, color=BLUE)
    saved.set_ylabel("saved (MiB)")
    whole = forecast.at_rest.physical["bytes_saved"] / _MIB
    reached = marks(forecast, pace)
    for mark in reached:
        saved.plot(mark.seconds[1], mark.share * whole, "o", color=GREEN)
    told = [f"{percent(m.share, 1)} in {human_seconds(m.seconds[1])}" for m in reached]
    if told:
        saved.set_title("\n".join(told) if narrow else ", ".join(told), color=GREEN, fontsize=10)
    for end, name in enumerate(("least", "most")):
        used = [found.cpu_seconds[end] for found in there]
        cpu.plot(times, used, color=BLUE if end else GREY, label=f"{name} cost of a page")
    cpu.set_ylabel("CPU (s)")
    _legend(cpu, columns=1 if narrow else 2)
    for axes in (saved, cpu):
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(3 if narrow else 7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: human_seconds(seconds)))


def _scan_by_scan(pace: Pace, axes: Axes, *, narrow: bool) -> None:
    rows = pace.scans.head(_MOST_SCANS)
    left = np.zeros(len(rows))
    for name, column, color in (
        ("visited", "pages_scanned", BLUE),
        ("skipped", "pages_skipped", GREY),
    ):
        height = np.diff(rows[column], prepend=0)
        axes.bar(rows["full_scans"], height, bottom=left, label=name, color=color)
        left += height
    axes.set_xlabel("full scan")
    axes.set_ylabel("pages")
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda pages, _: count(pages)))
    _legend(axes, columns=2)


def _legend(axes: Axes, columns: int) -> None:
    """Above the axes, where nothing is drawn."""
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderpad=0)

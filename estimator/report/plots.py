"""Pictures of a prediction and a plan, as matplotlib figures.

matplotlib is optional: ``pip install jinja2 matplotlib``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from estimator.advice.attribution import page_bytes
from estimator.advice.plan import Plan
from estimator.ksm.prediction import Prediction
from estimator.ksm.sharing import saved_between
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces
from estimator.units import human_bytes, percent, printable

_MIB = 2**20
_MATRIX_SIZE = 24
_POINTS = 200
_LABEL_LENGTH = 32
WIDE_INCHES, NARROW_INCHES = 7, 3.7
_NARROW_LABEL = 16
_STEPS = (1, 2, 2.5, 5, 10)
BLUE, GREEN, GREY = "#1f5fa8", "#2b8a3e", "#868e96"


def frontier_figure(snapshot: Snapshot, plan: Plan, *, narrow: bool = False) -> Figure:
    """Saved memory against memory scanned, best pieces first; the plan is marked.

    ``narrow``: as wide as a phone, with letters of the same size.
    """
    scale = page_bytes(snapshot) / _MIB
    steps = _thin(plan.frontier)
    scanned = np.concatenate([[0], steps["scanned_pages"]]) * scale
    saved = np.concatenate([[0], steps["saved_pages"]]) * scale
    freed, whole = (p.physical["frames_freed"] for p in (plan.prediction, plan.everything))
    place = (plan.scanned_pages * scale, freed * scale)
    figure = Figure(
        figsize=(NARROW_INCHES, 3.4) if narrow else (WIDE_INCHES, 3.8), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.plot(scanned, saved, color=BLUE, marker=".")
    axes.fill_between(scanned, saved, color=BLUE, alpha=0.1)
    gap = "\n" if narrow else " "
    told = f"the plan: {percent(freed, whole)} of what{gap}everything frees"
    axes.plot(*place, "o", color=GREEN, markersize=9, label=told)
    axes.legend(loc="lower right", labelcolor=GREEN)  # the curve is never there
    axes.set_xlabel("scanned by ksmd (MiB)")
    axes.set_ylabel("saved (MiB)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, steps=_STEPS))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _thin(steps: pd.DataFrame) -> pd.DataFrame:
    """At most 200 of the steps, spread evenly."""
    places = np.linspace(0, len(steps) - 1, min(len(steps), _POINTS)).round().astype(np.int64)
    return steps.iloc[places]


def contribution_figure(
    table: pd.DataFrame, label: str, page_bytes: int, limit: int = 15, *, narrow: bool = False
) -> Figure:
    """Scanned, merged and freed memory, a bar each for the first rows of ``contributions_by``.

    ``narrow``: as for ``frontier_figure``.
    """
    rows = table.head(limit)
    places = np.arange(len(rows))
    scale = page_bytes / _MIB
    width = NARROW_INCHES if narrow else WIDE_INCHES
    figure = Figure(figsize=(width, 0.8 + 0.5 * max(len(rows), 2)), layout="constrained")
    axes = figure.add_subplot()
    series = [
        ("scanned", "scanned_pages", GREY),
        ("merged", "ksm_merging_pages", BLUE),
        ("frees", "saved_pages", GREEN),
    ]
    for offset, (name, column, color) in enumerate(series):
        height = rows[column].to_numpy() * scale
        axes.barh(places + 0.27 * (offset - 1), height, 0.25, label=name, color=color)
    names = list(rows[label])
    _label(axes.set_yticks, places, names, length=_NARROW_LABEL if narrow else _LABEL_LENGTH)
    axes.invert_yaxis()
    axes.set_xlabel("MiB")
    axes.xaxis.set_major_locator(MaxNLocator(3 if narrow else 8, steps=_STEPS))
    figure.legend(frameon=False, loc="outside upper center", ncols=len(series))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def page_size_figure(table: pd.DataFrame, page_bytes: int, *, narrow: bool = False) -> Figure:
    """What equal pages would free, and of these zero-filled ones, by the size of a page.

    ``table``: of ``page_sizes``. ``page_bytes``: the kernel's own size, which is marked.
    ``narrow``: as for ``frontier_figure``.
    """
    figure = Figure(
        figsize=(NARROW_INCHES, 3.4) if narrow else (WIDE_INCHES, 3.8), layout="constrained"
    )
    axes = figure.add_subplot()
    size = table["page_bytes"].to_numpy()
    places = np.arange(len(size))
    saved, zero = (table[name].to_numpy() / _MIB for name in ("bytes_saved", "zero_bytes"))
    axes.plot(places, saved, color=BLUE, marker=".", label="equal pages")
    axes.plot(places, zero, color=GREY, marker=".", label="of these zero-filled")
    own = np.flatnonzero(size == page_bytes)
    axes.plot(own, saved[own], "o", color=GREEN, markersize=9, label="this kernel's size")
    axes.set_xticks(places, labels=[human_bytes(n).replace(".0 ", " ") for n in size.tolist()])
    axes.set_xlabel("size of a page")
    axes.set_ylabel("would be freed (MiB)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper center", ncols=1 if narrow else 3)
    return figure


def sharing_matrix(
    snapshot: Snapshot, prediction: Prediction
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Which processes save memory with which: ``Prediction.pairs`` in MiB, f64 (n, n), and n names.

    One row per process, or per program in a unit where more than 24 processes save something; on
    the diagonal what one saves with itself.
    """
    group, names = _matrix_groups(snapshot, prediction)
    saved, _ = saved_between(prediction, group, len(names))
    return saved * page_bytes(snapshot) / _MIB, names


def sharing_figure(
    matrix: npt.NDArray[np.float64], names: list[str], *, narrow: bool = False
) -> Figure:
    """A ``sharing_matrix`` as a heat map.

    ``narrow``: no wider than it has to be; with many names that is wider than a phone.
    """
    size = 2.2 + 0.28 * max(len(names), 4)
    width = size + 1 if narrow else max(size + 1, WIDE_INCHES)
    letters = 1 if narrow else width / WIDE_INCHES  # of one size with those of other figures
    with mpl.rc_context({"font.size": mpl.rcParams["font.size"] * letters}):
        return _heat_map(matrix, names, (width, size))


def _heat_map(
    matrix: npt.NDArray[np.float64], names: list[str], inches: tuple[float, float]
) -> Figure:
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.add_subplot()
    shown = np.ma.masked_equal(matrix, 0)
    top = float(matrix.max(initial=0)) or 1.0
    low = float(shown.min()) if shown.count() else top / 10
    norm = LogNorm(vmin=min(low, top / 10), vmax=top)
    mesh = axes.pcolormesh(shown, cmap="Blues", norm=norm, edgecolors="#eeeeee", linewidth=0.5)
    middle = np.arange(len(names)) + 0.5
    _label(axes.set_xticks, middle, names, rotation=90)
    _label(axes.set_yticks, middle, names)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    figure.colorbar(mesh, label="saved together (MiB)", shrink=0.8)
    return figure


def _matrix_groups(
    snapshot: Snapshot, prediction: Prediction
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The group of every mm, or -1, and the names of the groups: those that save most."""
    processes = snapshot.processes
    credit, mm_of_vma = prediction.credits.of_row, snapshot.vmas["mm_id"].to_numpy()
    saved_pages = np.zeros(len(processes))
    for piece, some in in_pieces(snapshot.mappings, ("vma_id",)):
        np.add.at(saved_pages, mm_of_vma[some["vma_id"].to_numpy()], credit[piece])
    saved = pd.Series(saved_pages)
    names = processes["comm"] + " " + processes["pid"].astype(str)
    if (saved > 0).sum() > _MATRIX_SIZE:
        names = processes["comm"] + " in " + units_of(processes["cgroup"])
    weight = saved[saved > 0].groupby(names).sum()
    chosen = sorted(weight.nlargest(_MATRIX_SIZE).index)
    return pd.Index(chosen).get_indexer(names).astype(np.int64), chosen


def _label(
    set_ticks: Callable[..., Any],
    places: npt.NDArray[Any],
    names: list[str],
    rotation: int = 0,
    length: int = _LABEL_LENGTH,
) -> None:
    """Label an axis with names, shortened, that are never read as mathematics."""
    shown = [printable(name) for name in names]
    labels = [n if len(n) <= length else f"{n[: length - 1]}…" for n in shown]
    set_ticks(places, labels=labels, parse_math=False, rotation=rotation)

"""Tables on a terminal, in a pipe, on 80 columns and on 200."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from estimator.report.units import count, human_bytes, printable, printable_lines

PROSE_COLUMNS = 100
_WIDE_COLUMNS = 120
_PIPE_COLUMNS = 200


class _Console(Console):
    """Lets nothing in a text drive the terminal, and leaves a closed pipe to the caller.

    Rich would exit with 1 there.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """The segments of ``renderable``, with such characters written out."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)

    def on_broken_pipe(self) -> None:
        """Called while BrokenPipeError is being handled."""
        raise


def make_console(file: IO[str], width: int | None = None) -> Console:
    """A console on ``file``: colour on a terminal only, and wide where there is no width.

    It writes to ``file`` in a notebook too, where Rich would show every line by itself.
    COLUMNS and NO_COLOR are honoured. ``width``: in columns, whatever ``file`` is.
    """
    if width is None and not file.isatty() and "COLUMNS" not in os.environ:
        width = _PIPE_COLUMNS
    return _Console(file=file, highlight=False, emoji=False, width=width, force_jupyter=False)


@dataclass(frozen=True)
class Column:
    """One column of a text table.

    ``show`` turns a cell into text. ``wide``: only where there is room for it.
    """

    title: str
    source: str
    show: Callable[[Any], str] = lambda value: printable(str(value))
    number: bool = False
    wide: bool = False


def pages(title: str, source: str, wide: bool = False) -> Column:
    """A column of page counts."""
    return Column(title, source, count, number=True, wide=wide)


def memory(title: str, source: str, unit_bytes: int = 1, wide: bool = False) -> Column:
    """A column of memory, stored in units of ``unit_bytes``."""
    return Column(title, source, lambda n: human_bytes(n * unit_bytes), number=True, wide=wide)


def heading(console: Console, title: str) -> None:
    """Start a section."""
    console.print()
    console.print(Text(title, style="bold"))


def prose(console: Console, text: str, style: str = "") -> None:
    """A paragraph, wrapped where the eye still follows."""
    width = min(console.width, PROSE_COLUMNS)
    for line in textwrap.wrap(text, width, break_on_hyphens=False):
        console.print(Text(line, style=style))


def bullets(console: Console, items: Iterable[str], style: str = "") -> None:
    """A list of paragraphs."""
    width = min(console.width, PROSE_COLUMNS)
    for item in items:
        lines = textwrap.wrap(
            printable(item),
            width,
            initial_indent="- ",
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        for line in lines:
            console.print(Text(line, style=style))


def table(
    console: Console,
    rows: pd.DataFrame,
    columns: list[Column],
    limit: int = 15,
    total: Mapping[str, Any] | None = None,
) -> None:
    """The first ``limit`` rows and ``total``; cells that don't fit are folded, never cut."""
    shown = [c for c in columns if not c.wide or console.width >= _WIDE_COLUMNS]
    if rows.empty:
        return
    grid = Table(
        box=box.SIMPLE_HEAD if total is None else box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
        show_header=any(column.title for column in shown),
        show_footer=total is not None,
        footer_style="",
    )
    sums = total_cells(total, shown) if total is not None else [""] * len(shown)
    for column, last in zip(shown, sums, strict=True):
        grid.add_column(
            column.title,
            Text(last),
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=column.number,
        )
    for row in rows.head(limit).to_dict("records"):
        grid.add_row(*(Text(column.show(row[column.source])) for column in shown))
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))
    if len(rows) > limit:
        counted = ", counted in the last line" if total is not None else ""
        console.print(f"  and {count(len(rows) - limit)} more{counted}", style="dim")


def total_cells(total: Mapping[str, Any], columns: list[Column]) -> list[str]:
    """The cells of the last row: "all" first, and nothing where a sum would say nothing."""
    return ["all", *(c.show(total[c.source]) if c.source in total else "" for c in columns[1:])]


def verbatim(console: Console, block: str) -> None:
    """Lines to copy: indented, never wrapped or cut."""
    for line in block.splitlines():
        console.print(Text(f"    {line}"), soft_wrap=True)

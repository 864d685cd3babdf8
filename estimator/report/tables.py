"""Tables on a terminal, in a pipe, on 80 columns and on 200."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from estimator.units import count, human_bytes, printable, printable_lines

PROSE_COLUMNS = 100
_WIDE_COLUMNS = 120
_PIPE_COLUMNS = 200
_LEAST_TEXT_COLUMNS = 20
_INDENT = "  "
_TOGETHER = "\N{NO-BREAK SPACE}"  # textwrap leaves it alone


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

    ``show`` turns a cell into text. ``wide``: only where there is room for it. ``unit_bytes``: of
    memory, what one of the numbers in ``source`` is; 0: it is no memory.
    """

    title: str
    source: str
    show: Callable[[Any], str] = lambda value: printable(str(value))
    number: bool = False
    wide: bool = False
    unit_bytes: int = 0


def pages(title: str, source: str, wide: bool = False) -> Column:
    """A column of page counts."""
    return Column(title, source, count, number=True, wide=wide)


def memory(title: str, source: str, unit_bytes: int = 1, wide: bool = False) -> Column:
    """A column of memory, stored in units of ``unit_bytes``."""
    return Column(
        title,
        source,
        lambda n: human_bytes(n * unit_bytes),
        number=True,
        wide=wide,
        unit_bytes=unit_bytes,
    )


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
    more: str = "",
) -> None:
    """The first ``limit`` rows and ``total``; cells that don't fit are folded, never cut.

    Where the names would get too little room, every row is a paragraph. ``more``: how to see the
    rest, said where there is one.
    """
    if rows.empty:
        return
    shown = [c for c in columns if not c.wide or console.width >= _WIDE_COLUMNS]
    cells = [[c.show(row[c.source]) for c in shown] for row in rows.head(limit).to_dict("records")]
    last = [] if total is None else [total_cells(total, shown)]
    if _has_room(console.width, shown, cells + last):
        _print_grid(console, shown, cells, last)
    else:
        _print_paragraphs(console, shown, cells + last)
    if len(rows) > limit:
        counted = ", counted in the last line" if last else ""
        console.print(f"  and {count(len(rows) - limit)} more{counted}{more}", style="dim")


def total_cells(total: Mapping[str, Any], columns: list[Column]) -> list[str]:
    """The cells of the last row: "all" first, and nothing where a sum would say nothing."""
    return ["all", *(c.show(total[c.source]) if c.source in total else "" for c in columns[1:])]


def _has_room(width: int, columns: list[Column], cells: list[list[str]]) -> bool:
    """Whether each column of text can have 20 characters beside the numbers, or all it needs."""
    needed = len(_INDENT) + 2 * len(columns) - 1
    for column, texts in zip(columns, zip(*cells, strict=True), strict=True):
        widest = max(map(cell_len, (column.title, *texts)))
        needed += widest if column.number else min(widest, _LEAST_TEXT_COLUMNS)
    return needed <= width


def _print_grid(
    console: Console, columns: list[Column], cells: list[list[str]], last: list[list[str]]
) -> None:
    """The rows ``cells``, and below a line those of ``last``: one, or none."""
    grid = Table(
        box=box.SIMPLE if last else box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
        show_header=any(column.title for column in columns),
        show_footer=bool(last),
        footer_style="",
    )
    for column, text in zip(columns, last[0] if last else [""] * len(columns), strict=True):
        grid.add_column(
            column.title,
            Text(text),
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=column.number,
        )
    for row in cells:
        grid.add_row(*map(Text, row))
    padded = Padding(grid, (0, 0, 0, len(_INDENT)), expand=False)
    if console.is_terminal:
        console.print(padded)
        return
    with console.capture() as captured:
        console.print(padded)
    for line in captured.get().splitlines():  # without the blanks that fill the last column
        console.out(line.rstrip(), highlight=False)


def _print_paragraphs(console: Console, columns: list[Column], cells: list[list[str]]) -> None:
    """Each row as its name, and below it what the other columns say.

    The name is the first text, with the number before it if there is one; else the first number.
    """
    text_at = next((n for n, column in enumerate(columns) if not column.number), len(columns))
    name = text_at + 1 if text_at <= 1 else 1
    for row in cells:
        called = " ".join(row[:name])
        if columns[name - 1].number:
            called = f"{columns[0].title} {called}"
        said = []
        for column, text in zip(columns[name:], row[name:], strict=True):
            words = f"{column.title} {text}".strip() if text else ""
            said += [words.replace(" ", _TOGETHER) if column.number else words] if words else []
        for indent, text in ((_INDENT, called), (2 * _INDENT, ", ".join(said))):
            lines = textwrap.wrap(
                text,
                console.width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
            for line in lines:
                console.print(Text(line.replace(_TOGETHER, " ")))


def verbatim(console: Console, block: str) -> None:
    """Lines to copy: indented, never wrapped or cut."""
    for line in block.splitlines():
        console.print(Text(f"    {line}"), soft_wrap=True)

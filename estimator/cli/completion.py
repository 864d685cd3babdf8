"""What a shell offers for the values of options; names of processes from the snapshot named."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

SORT_COLUMNS = (
    *("scanned", "merged", "frees", "net", "rmap_items", "processes", "pid", "uid"),
    *("comm", "program", "unit", "cgroup", "VMA"),
)
"""Of the tables of report, those of one word."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def sort_columns(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Columns that ``report --sort`` takes."""
    return _items(list(SORT_COLUMNS), incomplete)


def from_processes(column: str) -> Complete:
    """Values of ``column`` in the processes of the snapshot on the command line, if it is there."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        named = [context.params.get("snapshot"), context.params.get("a"), *context.args]
        tables = [Path(word) / "processes.parquet" for word in named if word]
        table = next((table for table in tables if table.is_file()), None)
        return [] if table is None else _items(_values(table, column), incomplete)

    return complete


def _values(table: Path, column: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(table, columns=[column]).column(column).unique().to_pylist()
    except (OSError, pa.ArrowException):
        return []  # a shell has no place for a message
    return sorted(str(value) for value in found if value is not None)


def _items(values: list[str], incomplete: str) -> list[CompletionItem]:
    """Those that go into a command line as they are, and through click, which parts by commas."""
    return [
        CompletionItem(value)
        for value in values
        if value.startswith(incomplete) and shlex.quote(value) == value and "," not in value
    ]

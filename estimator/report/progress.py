"""Progress on stderr: a bar with rate and remaining time on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from estimator.collect import Progress as Report
from estimator.collect import silent


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A ``Progress`` for ``collect`` that draws on stderr while the context is open."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        shown = ""

        def report(step: str, done: int, total: int) -> None:
            nonlocal shown
            if step != shown:
                bar.reset(task, description=step, total=total or None)
                shown = step
            bar.update(task, completed=done)

        yield report

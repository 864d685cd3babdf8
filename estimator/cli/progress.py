"""Progress on stderr: a bar with rate and remaining time on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from estimator.cli.options import quiet
from estimator.collect.progress import Progress as Report
from estimator.collect.progress import silent

_NAMES = {"bytes": "frames"}


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A ``Progress`` for ``collect`` that draws on stderr while the context is open."""
    if quiet() or not sys.stderr.isatty():
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
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:>9}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("opening", total=None, rate="")
        shown = ""

        def report(step: str, done: int, total: int) -> None:
            nonlocal shown
            if step != shown:
                bar.reset(task, description=_NAMES.get(step, step), total=total or None)
                shown = step
            speed = bar.tasks[0].speed if step == "bytes" else None
            rate = f"{speed / 1e9:.1f} GB/s" if speed else ""
            bar.update(task, completed=done, rate=rate)

        yield report

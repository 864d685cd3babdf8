"""Two things at once: a forked process collects a small dump while this one imports the model.

Most of such a run is the start: of drgn and its symbols there, of pandas here.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from estimator.cli.interrupts import leave_signals_to_parent

_SMALL_BYTES = 1 << 30  # what is found in a dump is some 2 % of it, and held twice for a moment

T = TypeVar("T")


def worth_it(dump: Sequence[Path]) -> bool:
    """Whether the start is most of the work on these files, and there is a core for each half."""
    if not dump or not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return False
    try:
        return sum(path.stat().st_size for path in dump) <= _SMALL_BYTES
    except OSError:  # told where the dump is opened
        return False


def in_a_fork(work: Callable[[], T], meanwhile: Callable[[], None]) -> T:
    """What ``work`` returns or raises in a process of its own; this one does ``meanwhile``.

    Results and exceptions are pickled. Raises the errors of ``workers.forked`` too.
    """
    from estimator.collect.workers import forked

    reader, writer = os.pipe()

    def send() -> None:
        leave_signals_to_parent()
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            try:
                answer: tuple[T | None, Exception | None] = work(), None
            except Exception as error:
                error.add_note(traceback.format_exc())  # for --debug
                answer = None, error
            pickle.dump(answer, pipe, pickle.HIGHEST_PROTOCOL)

    with os.fdopen(reader, "rb") as pipe:
        try:
            with forked(1, send):
                os.close(writer)
                writer = -1
                meanwhile()
                sent = pipe.read()
        finally:
            if writer >= 0:
                os.close(writer)
    found, error = pickle.loads(sent)
    if error is not None:
        raise error
    return found

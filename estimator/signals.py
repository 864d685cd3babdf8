"""The signals that end us, and how they wait for a moment that suits."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

ENDING = [  # not every system has all
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


@contextlib.contextmanager
def interrupts_wait() -> Iterator[Callable[[], None]]:
    """Keep signals that end us until what this gives is called, or the end; then they do as usual.

    The second one does not wait. Other threads than the main one get none.
    """
    usual: dict[int, Callable[[int, Any], Any]] = {}
    kept: list[int] = []

    def keep(number: int, frame: Any) -> None:
        if kept:
            usual[number](number, frame)
        kept.append(number)

    def interrupt() -> None:
        if kept:
            usual[kept[0]](kept[0], None)

    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            handler = signal.getsignal(number)
            if callable(handler):
                usual[number] = handler
                signal.signal(number, keep)
    try:
        yield interrupt
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    interrupt()

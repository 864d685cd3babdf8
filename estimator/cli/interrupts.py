"""Signals that end us: as Ctrl-C, so that nothing half-written is left."""

from __future__ import annotations

import signal
from typing import Any, NoReturn

from estimator.signals import ENDING

_received: list[int] = []


def raise_on_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP become KeyboardInterrupt, unless somebody ignores them (nohup)."""
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _raise)


def leave_signals_to_parent() -> None:
    """Ignore them in a process forked from one that ends us itself when it gets one."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def interrupted() -> bool:
    """Whether one came. C code makes other exceptions of it (an import that failed, say)."""
    return bool(_received)


def _raise(number: int, frame: Any) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt

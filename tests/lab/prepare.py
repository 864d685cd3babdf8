"""What the tests of the lab need besides this clone, made before they ask for it.

``python -m tests.lab.prepare``: what is cached stays. What can't be made is told and left to the
tests, which try it themselves.
"""

from __future__ import annotations

import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.lab.apt import LabError
from tests.lab.debian import debian_image, symbols_image
from tests.lab.kernels import (
    SERIES,
    WITHOUT_SYMBOLS,
    ensure_tools,
    fetch_kernel,
    machine_of,
    say,
)
from tests.lab.user_space import user_space

_ARM64 = ("6.12-arm64-16k", "6.12-arm64", "7.2-arm64", "5.10-arm64")
_READ_INSIDE = ("7.3", "6.12", "6.1", "5.10", "6.12-arm64-16k", "5.10-arm64")
"""Kernels that the program reads in their own guest."""


def _steps() -> Iterator[tuple[str, Callable[[], object]]]:
    """In the order in which the tests ask for them, more or less."""
    yield "tools", ensure_tools
    yield SERIES[0], partial(fetch_kernel, SERIES[0])
    yield "a system with Python", debian_image
    yield "a system with programs", user_space
    yield "tools for arm64", lambda: ensure_tools(machine_of(_ARM64[0]))
    for series in (*SERIES[1:], *_ARM64, *WITHOUT_SYMBOLS):
        yield series, partial(fetch_kernel, series)
    yield "a system for arm64", lambda: debian_image(machine_of(_ARM64[0]))
    for series in _READ_INSIDE:
        yield f"symbols of {series}", partial(_symbols, series)


def _symbols(series: str) -> None:
    symbols_image(fetch_kernel(series))


def prepare() -> None:
    """Make all of it, one after the other."""
    for name, make in _steps():
        started = time.monotonic()
        try:
            make()
        except LabError as error:
            say(f"{name}: {error}")
        else:
            say(f"{name}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__" and platform.machine() == "x86_64":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing half-made stays in the cache
    prepare()

"""A process that answers one question and ends: what it need not do on the way."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from typing import NoReturn

from estimator.errors import EstimatorError

_KEEP_WHAT_IS_FREED = (  # option and value for mallopt() of glibc, malloc.h
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: nothing goes back to the kernel,
    (-4, 0),  # M_MMAP_MAX: not the largest arrays either,
    (-8, 1),  # M_ARENA_MAX: and all threads can use it
)
_PLUGIN = "ksm_estimator"  # its entry point in pyproject.toml


def prepare() -> None:
    """Look for no garbage, which comes to little in a run, and keep the memory that is freed.

    Memory that was given back to the kernel and is taken again is zeroed again. The C library has
    to be glibc; another one is left as it is. Arrow, if it is imported later, is to take its memory
    from the C library as well. drgn need not load our own plugin for it, which is a command of its
    prompt. OpenBLAS, if NumPy is imported later, is to start no threads, which spin for a while on
    each core, and by whose number sums differ.
    """
    gc.disable()
    left_out = os.environ.get("DRGN_DISABLE_PLUGINS")
    os.environ["DRGN_DISABLE_PLUGINS"] = f"{left_out},{_PLUGIN}" if left_out else _PLUGIN
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _KEEP_WHAT_IS_FREED:
            mallopt(option, value)


def leave(code: int) -> NoReturn:
    """End the process, and take nothing apart: the kernel frees tables and symbols at once."""
    with contextlib.suppress(EstimatorError, OSError):  # what can't be written was told in main()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)

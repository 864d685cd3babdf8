"""Where in a page's flags a flag or the zone is, by the enumerators of that kernel."""

from __future__ import annotations

import numpy as np
from drgn import Program


def bit_of(prog: Program, name: str) -> int:
    """The mask of a page flag; 0 if this kernel has no such flag."""
    number = _constant(prog, name)
    return 0 if number is None else 1 << number


def zone_device(prog: Program, end: int) -> tuple[np.uint64, np.uint64]:
    """The bits of the zone in a page's flags, and what they are in ZONE_DEVICE; 0 without that.

    include/linux/page-flags-layout.h: they come before those of the node, whose lowest is ``end``.
    """
    number, zones = _constant(prog, "ZONE_DEVICE"), _constant(prog, "__MAX_NR_ZONES")
    if number is None or zones is None:
        return np.uint64(0), np.uint64(0)
    bits = (zones - 1).bit_length()  # ZONES_WIDTH
    return np.uint64((1 << bits) - 1 << end - bits), np.uint64(number << end - bits)


def _constant(prog: Program, name: str) -> int | None:
    """The value of an enumerator; None if this kernel has none of this name."""
    try:
        return int(prog.constant(name).value_())
    except LookupError:
        return None

"""How much memory a collection needs, known before it starts."""

from __future__ import annotations

from estimator.errors import UsageError

_FIXED_BYTES = 200 << 20  # interpreter, libraries, symbols
_BYTES_PER_MAPPING = 100
_BYTES_PER_MOVING_MAPPING = 140  # two walks are compared


def needed_bytes(mappings: int, *, running: bool) -> int:
    """An upper bound of the memory, not backed by files, for so many anonymous mappings.

    ``running``: of a system that runs, not of a dump.
    """
    each = _BYTES_PER_MOVING_MAPPING if running else _BYTES_PER_MAPPING
    return _FIXED_BYTES + each * mappings


def refuse_beyond(max_memory_mib: int, mappings: int, *, running: bool) -> None:
    """Raise UsageError if ``mappings`` may take more memory than ``max_memory_mib`` allows."""
    needed_mib = -(-needed_bytes(mappings, running=running) // (1 << 20))
    if needed_mib > max_memory_mib:
        raise UsageError(
            f"{mappings:,} anonymous pages are mapped: that may take {needed_mib:,} MiB, "
            f"more than --max-memory {max_memory_mib:,}",
            hint="raise the limit, or take a dump and read it elsewhere",
        )

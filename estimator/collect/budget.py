"""How much memory a collection needs, known before it starts."""

from __future__ import annotations

from estimator.errors import UsageError

_FIXED_BYTES = 200 << 20  # interpreter, libraries, symbols
_BYTES_PER_MAPPING = 100


def needed_bytes(mappings: int) -> int:
    """An upper bound of the memory, not backed by files, for so many anonymous mappings."""
    return _FIXED_BYTES + _BYTES_PER_MAPPING * mappings


def refuse_beyond(max_memory_mib: int, mappings: int) -> None:
    """Raise UsageError if ``mappings`` may take more memory than ``max_memory_mib`` allows."""
    needed_mib = -(-needed_bytes(mappings) // (1 << 20))
    if needed_mib > max_memory_mib:
        raise UsageError(
            f"{mappings:,} anonymous pages are mapped: that may take {needed_mib:,} MiB, "
            f"more than --max-memory {max_memory_mib:,}",
            hint="raise the limit, or take a dump and read it elsewhere",
        )

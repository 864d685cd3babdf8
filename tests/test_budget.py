"""What --max-memory promises."""

from __future__ import annotations

import pytest

from estimator.collect.budget import needed_bytes, refuse_beyond
from estimator.errors import UsageError

MAPPINGS = 8_000_000


def test_a_running_system_takes_more_than_a_dump() -> None:
    """Measured on 8 M mappings of a running system: 128 bytes each while two walks are compared."""
    assert needed_bytes(MAPPINGS, running=True) - needed_bytes(0, running=True) > 128 * MAPPINGS
    limit_mib = needed_bytes(MAPPINGS, running=False) // (1 << 20) + 1
    refuse_beyond(limit_mib, MAPPINGS, running=False)
    with pytest.raises(UsageError, match=f"--max-memory {limit_mib:,}"):
        refuse_beyond(limit_mib, MAPPINGS, running=True)

"""What --max-memory promises."""

from __future__ import annotations

import pytest

from estimator.collect.budget import needed_bytes, refuse_beyond
from estimator.errors import UsageError

MAPPINGS = 8_000_000


def test_a_running_system_takes_more_than_a_dump() -> None:
    """Measured on 8 M mappings of a running system: 128 bytes each while two walks are compared."""
    assert needed_bytes(MAPPINGS, running=True) - needed_bytes(0, running=True) > 128 * MAPPINGS
    limit = needed_bytes(MAPPINGS, running=False)
    refuse_beyond(limit, MAPPINGS, running=False)
    with pytest.raises(UsageError, match=f"more than --max-memory {-(-limit >> 20)}M") as refused:
        refuse_beyond(limit, MAPPINGS, running=True)
    assert refused.value.hint
    enough = int(refused.value.hint.partition("--max-memory ")[2].partition("M")[0]) << 20
    refuse_beyond(enough, MAPPINGS, running=True)

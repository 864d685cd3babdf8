"""What --max-memory promises."""

from __future__ import annotations

import pytest

from estimator.cli.room import COUNTERS
from estimator.collect.budget import needed_bytes, refuse_beyond
from estimator.errors import UsageError

MAPPINGS = 8_000_000


def test_a_running_system_takes_more_than_a_dump() -> None:
    limit = needed_bytes(MAPPINGS, running=False)
    refuse_beyond(limit, MAPPINGS, running=False)
    with pytest.raises(UsageError, match=f"more than --max-memory {-(-limit >> 20)}M") as refused:
        refuse_beyond(limit, MAPPINGS, running=True)
    assert refused.value.hint
    enough = int(refused.value.hint.partition("--max-memory ")[2].partition("M")[0]) << 20
    refuse_beyond(enough, MAPPINGS, running=True)


def test_a_prediction_that_follows_is_asked_for_before_work() -> None:
    takes = COUNTERS.more_bytes(1, 1)
    alone = needed_bytes(MAPPINGS, running=True)
    whole = needed_bytes(MAPPINGS, running=True, answers=takes)
    assert whole - alone == COUNTERS.more_bytes(MAPPINGS, MAPPINGS)
    with pytest.raises(UsageError, match="more than --max-memory"):
        refuse_beyond(alone, MAPPINGS, running=True, answers=takes)

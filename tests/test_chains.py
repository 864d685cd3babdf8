"""Chains of stable nodes that have come down to one node."""

from __future__ import annotations

import pytest

from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import MappingFlag
from tests.synthetic import Frame, System, small


@pytest.mark.parametrize(
    ("kernel", "items", "searched", "chains", "told"),
    [
        ("6.1", 4, True, 1, False),
        ("6.1", 5, True, 1, False),  # forked beyond the limit
        ("6.1", 3, True, 0, True),
        ("6.1", 3, False, 1, False),
        ("6.12", 4, True, 0, True),
        ("6.12", 4, False, 1, False),
    ],
)
def test_a_chain_that_has_come_down_to_one_node(
    kernel: str, items: int, searched: bool, chains: int, told: bool
) -> None:
    system = System(kernel, max_page_sharing=4)
    kept, chained = Frame(7), [Frame(8), Frame(8)]
    system.stable_node(kept, chain=0)
    for frame in chained:
        system.stable_node(frame, chain=1)
        system.process(frame, frame, flags=MappingFlag.MERGED)
    for _ in range(items):
        system.process(kept, flags=MappingFlag.MERGED)
    if searched:
        system.process(*small(1))
    snapshot = system.snapshot()
    found = predict(snapshot, Policy(scope="enabled"))
    numbers = found.counters["stable_node_chains"], found.counters["stable_node_dups"]
    assert numbers == (1 + chains, 2 + chains)
    assert any("came down to one node" in text for text in found.warnings) == told
    each = forecast(snapshot, Policy(scope="enabled"), scans=4).scans
    assert each["stable_node_chains"].tolist() == [1 + chains] * 4
    assert each["stable_node_dups"].tolist() == [2 + chains] * 4

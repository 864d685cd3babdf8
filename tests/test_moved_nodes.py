"""KSM pages that have moved to another NUMA node, with a stable tree for each."""

from __future__ import annotations

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import MappingFlag
from tests.synthetic import Frame, System

ENABLED = Policy(scope="enabled")


def found(system: System, pages: list[tuple[int, int]]) -> Prediction:
    """KSM pages of one content on node 1: the tree that each is in, how often it is mapped."""
    frames = [Frame(7, node=1) for _ in pages]
    for frame, (_, mapped) in zip(frames, pages, strict=True):
        system.stable_node(frame)
        for _ in range(mapped):
            system.process(frame, flags=MappingFlag.MERGED)
    snapshot = system.snapshot()
    nodes = snapshot.stable_nodes["node"].to_numpy().copy()
    nodes[:] = [tree for tree, _ in pages]
    snapshot.stable_nodes["node"] = nodes
    return predict(snapshot, ENABLED)


@pytest.mark.parametrize(
    ("pages", "shared", "left"),
    [
        ([(0, 1), (1, 2)], 1, 1),
        ([(0, 2), (1, 2)], 2, 0),  # a chain
        ([(1, 1), (1, 2)], 2, 0),  # where they belong
        ([(0, 1)], 1, 0),  # the first of its content
        ([(0, 1), (0, 1), (0, 1)], 1, 2),
        ([(0, 1), (0, 3)], 2, 0),
        ([(0, 3), (0, 1)], 1, 1),
    ],
)
def test_a_page_that_is_mapped_once_leaves_its_node_in_vain(
    pages: list[tuple[int, int]], shared: int, left: int
) -> None:
    prediction = found(System(merge_across_nodes=0), pages)
    mapped = sum(times for _, times in pages)
    numbers = [prediction.counters[name] for name in ("pages_shared", "pages_sharing")]
    assert numbers == [shared, mapped - left - shared]
    assert prediction.counters["pages_volatile"] == left
    assert prediction.processes["smaps_ksm_pages"].sum() == mapped
    assert prediction.physical["frames_freed"] == 0
    assert prediction.counters["stable_node_dups"] == (shared if shared > 1 else 0)


def test_where_no_node_has_room_it_waits_in_the_unstable_tree() -> None:
    system = System(merge_across_nodes=0, max_page_sharing=4)
    prediction = found(system, [(0, 1), (1, 4)])
    names = ("pages_shared", "pages_sharing", "pages_unshared")
    assert [prediction.counters[name] for name in names] == [1, 3, 1]


def test_one_tree_for_all_nodes_asks_for_nothing() -> None:
    assert found(System(), [(0, 1), (1, 2)]).counters["pages_shared"] == 2

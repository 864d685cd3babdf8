"""Without the stable tree, KSM's pages themselves say what is merged already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.advice.side_effects import side_effects
from estimator.advice.verdict import savings
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.seen_nodes import with_seen_nodes
from estimator.ksm.upper_bound import upper_bound
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, small

ENABLED = Policy(scope="enabled")


def without_tree(snapshot: Snapshot) -> Snapshot:
    """As /proc shows it: no stable node, and of no mapping whether it is an item of one."""
    flags = snapshot.mappings["flags"].to_numpy() & ~np.uint8(MappingFlag.MERGED)
    return replace(
        snapshot,
        info=snapshot.info | {"not_known": {"stable_nodes": "none"}},
        mappings=snapshot.mappings.assign(flags=flags),
        stable_nodes=snapshot.stable_nodes.iloc[:0],
        stable_items=snapshot.stable_items.iloc[:0],
    )


def merged(*nodes: tuple[int, int, int], **ksm: Any) -> System:
    """(content, items, NUMA node) of each stable node; equal contents of a tree are a chain."""
    system = System("7.3", **ksm)
    trees = [(c, 0 if system.ksm["merge_across_nodes"] else node) for c, _, node in nodes]
    for (content, items, node), (_, tree) in zip(nodes, trees, strict=True):
        frame = Frame(content, node=node)
        alike = trees.count((content, tree))
        system.stable_node(frame, chain=10 * content + tree if alike > 1 else -1)
        for _ in range(items):
            system.process(frame, flags=MappingFlag.MERGED)
    return system


NODES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 1))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(NODES, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=8),
    st.fixed_dictionaries(
        {
            "max_page_sharing": st.integers(4, 6),
            "merge_across_nodes": st.integers(0, 1),
            "use_zero_pages": st.integers(0, 1),
        }
    ),
)
def test_the_answer_is_that_with_the_tree(
    nodes: list[tuple[int, int, int]], others: list[tuple[int, int]], ksm: dict[str, int]
) -> None:
    system = merged(*nodes, **ksm)
    for content, node in others:
        system.process(*small(content, node=node))
    snapshot = system.snapshot()
    for policy in (ENABLED, Policy(), replace(ENABLED, max_page_sharing=3)):
        known, seen = (predict(s, policy) for s in (snapshot, without_tree(snapshot)))
        assert seen.counters == known.counters
        assert seen.physical == known.physical
        assert seen.processes.equals(known.processes)
        bounds = [upper_bound(s, policy).ledger for s in (snapshot, without_tree(snapshot))]
        assert bounds[0] == bounds[1]


def test_what_maps_it_elsewhere_is_no_item() -> None:
    system = merged((7, 2, 0))
    page = system.stable_nodes[0][0]
    system.process(page, mergeable=False)
    system.process(page, listed=False)
    snapshot = with_seen_nodes(without_tree(system.snapshot()), merge_across_nodes=True)
    assert snapshot.mappings["flags"].tolist()[:2] == [MappingFlag.MERGED] * 2
    assert not (snapshot.mappings["flags"].to_numpy()[2:] & MappingFlag.MERGED).any()
    assert snapshot.stable_nodes["chain_id"].tolist() == [-1]


def test_a_node_whose_content_is_unknown_is_in_no_chain() -> None:
    system = System()
    for content in (None, None, 5, 5):
        frame = Frame(content)
        system.stable_node(frame)
        system.process(frame, flags=MappingFlag.MERGED)
    chains = with_seen_nodes(without_tree(system.snapshot()), merge_across_nodes=True)
    found = chains.stable_nodes["chain_id"].tolist()
    assert found[:2] == [-1, -1]
    assert found[2] == found[3] >= 0


def test_each_content_has_a_chain_of_its_own() -> None:
    system = merged((5, 1, 0), (5, 1, 0), (6, 1, 0), (6, 1, 0), (7, 1, 0))
    seen = with_seen_nodes(without_tree(system.snapshot()), merge_across_nodes=True)
    five, also_five, six, also_six, seven = seen.stable_nodes["chain_id"].tolist()
    assert five == also_five >= 0
    assert six == also_six >= 0
    assert five != six
    assert seven == -1


@pytest.mark.parametrize("known", ["frames.refcount", "stable_nodes"])
def test_only_where_no_tree_was_read(known: str) -> None:
    snapshot = without_tree(merged((7, 3, 0)).snapshot())
    snapshot.info["not_known"] = {known: "said"}
    assert predict(snapshot, ENABLED).counters["pages_sharing"] == (
        2 if known == "stable_nodes" else 0
    )


def test_zero_pages_that_ksmd_has_placed_are_what_the_process_counts() -> None:
    """Which VMA has them /proc does not say, and fork may have wiped a VMA that had some."""
    system = System(use_zero_pages=1)
    system.process(*small(0, 1))
    system.process(*small(2))
    snapshot = system.snapshot()
    snapshot.processes["ksm_zero_pages"] = pd.array([5, None], dtype="Int64")
    found = predict(snapshot, ENABLED)
    assert found.counters["ksm_zero_pages"] == 6
    assert found.processes["ksm_zero_pages"].tolist() == [6, 0]
    assert found.processes["ksm_process_profit"].tolist() == [6 * 4096 - 64, -64]
    assert found.vmas["ksm_zero_pages"].sum() == 1
    for damage in (1 << 50, -(1 << 63)):
        snapshot.processes["ksm_zero_pages"] = pd.array([damage, None], dtype="Int64")
        assert predict(snapshot, ENABLED).processes["ksm_zero_pages"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("counted", "told"), [(5, 6), (2, 3), (-90_000, -89_999), (None, 6), (1 << 50, 6)]
)
def test_the_kernels_count_of_zero_pages_goes_on_from_where_it_is(
    counted: int | None, told: int
) -> None:
    """Fork copied some that it did not count, and of children that have gone it counted down.

    2 to the 50 is damage, and counts as not known.
    """
    system = System(use_zero_pages=1)
    system.process(*small(0, 1), ksm_zero_pages=3)
    system.process(*small(2), ksm_zero_pages=2)
    snapshot = system.snapshot()
    snapshot.info["ksm"]["counters"] = {} if counted is None else {"ksm_zero_pages": counted}
    found = predict(snapshot, ENABLED)
    assert found.counters["ksm_zero_pages"] == told
    assert found.processes["ksm_zero_pages"].tolist() == [4, 2]
    assert found.vmas["ksm_zero_pages"].tolist() == [4, 2]
    apart = any("zero pages that ksmd placed, and 5 are mapped" in each for each in found.warnings)
    assert apart == (told != 6)
    part = predict(snapshot, replace(ENABLED, pids=(100,)))
    assert part.counters["ksm_zero_pages"] == 4
    placed = 5 * 4096
    assert savings(snapshot, found).merged_now_bytes == placed
    assert side_effects(snapshot, found).unmerge_bytes == placed + 4096


def test_who_starts_over_is_told_of_zero_pages_that_are_given_back() -> None:
    system = System(use_zero_pages=1)
    system.process(*small(1), ksm_zero_pages=3)
    system.process(*small(2), ksm_zero_pages=10, mergeable=False)
    system.process(*small(3), ksm_zero_pages=20, listed=False)
    merged = Frame(7)
    system.stable_node(merged)
    system.process(merged, flags=MappingFlag.MERGED)
    system.process(merged, flags=MappingFlag.MERGED)
    snapshot = system.snapshot()
    snapshot.info["ksm"]["counters"] = {"ksm_zero_pages": 30}
    again = replace(ENABLED, max_page_sharing=100)
    asked = (ENABLED, again, replace(again, use_zero_pages=False))
    answers = [predict(snapshot, policy) for policy in asked]
    texts = [" ".join(found.warnings) for found in answers]
    assert ["gives 3 zero pages" in text for text in texts] == [False, True, True]
    assert ["places all of them again" in text for text in texts] == [False, True, False]
    assert ["as any others do" in text for text in texts] == [False, False, True]
    assert [found.counters["ksm_zero_pages"] for found in answers] == [30, 30, 30]
    snapshot.info["not_known"] = {"vmas.ksm_zero_pages": "said"}
    assert "gives 13 zero pages" in " ".join(predict(snapshot, again).warnings)


@pytest.mark.parametrize(("shared", "told"), [(2, False), (1, True), (None, False)])
def test_more_ksm_pages_than_ksmd_has_nodes_are_told(shared: int | None, told: bool) -> None:
    system = System()
    for content in (7, 8):
        merged = Frame(content)
        system.stable_node(merged)
        system.process(merged, flags=MappingFlag.MERGED)
        system.process(merged, flags=MappingFlag.MERGED)
    snapshot = without_tree(system.snapshot())
    snapshot.info["ksm"]["counters"] = {} if shared is None else {"pages_shared": shared}
    texts = predict(snapshot, ENABLED).warnings
    assert any("2 KSM pages were found, and ksmd counts 1" in text for text in texts) == told

"""Closed forms against the simulation of every single item, over random systems."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.ksm import case as cases
from estimator.ksm.case import Case
from estimator.ksm.caveats import Told
from estimator.ksm.fate import Fate, hidden_roots, settle
from estimator.ksm.frames import NEVER
from estimator.ksm.ksmd import Ksmd
from estimator.ksm.policy import Policy
from estimator.ksm.prediction import Outcome
from estimator.ksm.readings import Readings
from estimator.ksm.replay import items_of
from estimator.ksm.rules import Rules, tunables
from estimator.ksm.simulate import first_scan, scan
from estimator.ksm.simulation import Simulation
from estimator.ksm.totals import summarise
from estimator.snapshot.flags import FrameFlag, MappingFlag
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, folio, small


@st.composite
def frames(draw: st.DrawFn, contents: int, huge: bool) -> list[Frame]:
    """A run of frames, or a large folio."""
    content = st.integers(0, contents)
    flags = FrameFlag.LRU | (FrameFlag.MLOCKED if draw(st.integers(0, 9)) == 0 else 0)
    pins = 1 if draw(st.integers(0, 9)) == 0 else 0
    node = draw(st.integers(0, 1))
    if huge and draw(st.booleans()):
        pieces = draw(st.lists(content, min_size=4, max_size=4))
        return folio(pieces, flags=flags, pins=pins, node=node)
    pieces = draw(st.lists(content, min_size=1, max_size=5))
    outside = 1 if draw(st.integers(0, 9)) == 0 else 0
    return small(*pieces, flags=flags, pins=pins, node=node, outside=outside)


@st.composite
def systems(draw: st.DrawFn) -> System:
    system = System(
        draw(st.sampled_from(["6.1", "6.12", "7.3"])),
        smart_scan=draw(st.integers(0, 1)),
        max_page_sharing=draw(st.integers(2, 8)),
        use_zero_pages=draw(st.integers(0, 3)) == 0,
        merge_across_nodes=draw(st.integers(0, 3)) != 0,
    )
    contents, huge = draw(st.integers(0, 6)), draw(st.booleans())
    for _ in range(draw(st.integers(1, 5))):
        process = system.process()
        for _ in range(draw(st.integers(1, 4))):
            flags = draw(st.sampled_from([MappingFlag.DIRTY, MappingFlag.DIRTY, 0]))
            if draw(st.integers(0, 14)) == 0:
                flags |= MappingFlag.PROT_NONE
            process.map(
                draw(frames(contents, huge)),
                flags,
                locked=draw(st.integers(0, 14)) == 0,
                mergeable=draw(st.integers(0, 9)) != 0,
            )
        if draw(st.booleans()):
            system.fork(process, draw(st.integers(1, 4)))
    for node in range(draw(st.integers(0, 3)) if draw(st.booleans()) else 0):
        merged = Frame(draw(st.integers(0, contents)), node=draw(st.integers(0, 1)))
        system.stable_node(merged, chain=node)
        for _ in range(draw(st.integers(1, 4))):
            on_node = draw(st.integers(0, 3)) != 0
            system.process(merged, flags=MappingFlag.MERGED if on_node else 0)
    draw(st.randoms(use_true_random=False)).shuffle(system.processes)
    return system


def case_of(snapshot: Snapshot) -> tuple[Case, Policy]:
    policy = Policy(scope="enabled").with_tunables(tunables(snapshot.info))
    rules = Rules.of(snapshot.info, policy)
    return cases.case_of(snapshot, policy, rules, None), policy


def scan_everything(case: Case) -> tuple[Fate, Simulation]:
    """Every item of every content in every scan, as ksmd does it."""
    root, closed_trees = hidden_roots(case)
    unsplit = np.full(len(case.facts.items), NEVER, dtype=np.int32)
    everything = case.facts.items > 0
    items, state = items_of(case, everything, unsplit[:0], closed_trees, unsplit)
    ksmd = Ksmd(items, state, case.rules)
    first_scan(ksmd, range(len(items)))
    quiet, enough = 0, 60 if case.rules.break_cow_forgets else 10
    while quiet < enough or not ksmd.in_step():
        quiet = 0 if scan(ksmd, range(len(items))) else quiet + 1
    result = ksmd.result(items, Readings(case.rules.smart_scan))
    rows = items.row
    outcome = np.zeros(len(case.frame_of_row), dtype=np.uint8)
    outcome[rows] = result.outcome
    outcome[root[outcome[root] == Outcome.VOLATILE]] = Outcome.UNSHARED
    stable = np.full(len(outcome), -1)
    stable[rows] = result.stable_frame
    frame = case.frame_of_row[rows]
    moved = (result.outcome == Outcome.MERGED) & (result.stable_frame != frame)
    moved |= (result.outcome == Outcome.ZERO_PAGE) | (result.outcome == Outcome.SPLIT_AWAY)
    left = np.bincount(frame[moved], minlength=len(everything)).astype(np.int32)
    left += np.bincount(frame[result.copied], minlength=len(everything)).astype(np.int32)
    node = np.zeros(len(everything), dtype=bool)
    node[stable[stable >= 0]] = True
    ksm = case.facts.ksm | node
    ksm[list(result.orphans)] = True
    is_split = np.isin(case.facts.folio, list(result.split_folios))
    locked = np.zeros_like(node)
    locked_rows = case.snapshot.vmas["locked"].to_numpy()[case.snapshot.mappings["vma_id"]]
    locked[case.frame_of_row[locked_rows]] = True
    vanished = case.facts.zero & is_split & ~case.facts.mlocked & ~locked
    vanished &= case.rules.split_maps_zero_page
    fate = Fate(
        outcome,
        stable,
        rows[result.copied],
        left,
        vanished,
        ksm,
        node,
        np.isin(np.arange(int(case.facts.folio.max(initial=-1)) + 1), list(result.split_folios)),
        result.scans,
        rows[:0],
    )
    return fate, result


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_closed_forms_equal_the_simulation_of_everything(system: System) -> None:
    case, policy = case_of(system.snapshot())
    solved = settle(case)
    scanned, _ = scan_everything(case)
    a, b = summarise(case, policy, solved, Told()), summarise(case, policy, scanned, Told())
    assert a.counters == b.counters
    assert a.outcome.tolist() == b.outcome.tolist()
    assert a.vmas.equals(b.vmas)
    assert a.physical == b.physical
    assert _partition(a.stable_node) == _partition(b.stable_node)


def _partition(stable: np.ndarray) -> list[int]:
    """Who shares a node with whom, whatever its number is."""
    return [int(np.argmax(stable == n)) if n >= 0 else -1 for n in stable]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_conservation(system: System) -> None:
    case, policy = case_of(system.snapshot())
    found = summarise(case, policy, settle(case), Told())
    c = found.counters
    assert c["ksm_rmap_items"] == sum(
        c[n] for n in ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
    )
    merging = int(found.processes["ksm_merging_pages"].sum())
    assert merging == c["pages_shared"] + c["pages_sharing"]
    assert merging == np.count_nonzero(found.stable_node >= 0)
    assert np.count_nonzero(found.outcome == Outcome.UNKNOWN) == 0


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.permutations(range(20)))
def test_order_does_not_matter_within_the_limit(copies: list[int], order: list[int]) -> None:
    def counters(pages: list[Frame]) -> dict[str, int]:
        system = System()
        for frame in pages:
            system.process(frame)
        case, policy = case_of(system.snapshot())
        return summarise(case, policy, settle(case), Told()).counters

    def pages() -> list[Frame]:
        made: list[Frame] = []
        for content, times in enumerate(copies):
            frame = Frame(content + 1)
            made += [frame] * times + [Frame(content + 1)] * (content % 2)
        return made

    moved = pages()
    moved.sort(key=lambda frame: order[(frame.content or 0) % 20])
    assert counters(pages()) == counters(moved)

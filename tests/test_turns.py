"""smart_scan's turns: from ksmd's lists to what never merges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from estimator.ksm.case import Case, case_of
from estimator.ksm.fate import hidden_roots, settle
from estimator.ksm.forecast import forecast
from estimator.ksm.frames import NEVER
from estimator.ksm.hash_parts import Workroom
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome
from estimator.ksm.readings import is_processed
from estimator.ksm.replay import items_of
from estimator.ksm.rules import Rules, tunables
from estimator.ksm.simulate_turns import simulate_turns
from estimator.snapshot.flags import AHEAD, OLD_VISITS, SKIPPING_SCANS
from estimator.snapshot.snapshot import Snapshot, mapping_mm
from tests.synthetic import System, small
from tests.test_model_closed_forms import systems

ENABLED = Policy(scope="enabled")
PAGES = 1000
COUNTERS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")


def visited(system: System, *visits: int) -> Snapshot:
    """A snapshot, by whose column ``visits`` full scans came to the processes so often."""
    snapshot = system.snapshot()
    snapshot.mappings["visits"] = np.array(visits, np.uint8)[mapping_mm(snapshot)]
    return snapshot


def of_two(*visits: int, kernel: str = "6.12", smart_scan: int = 1) -> dict[str, int]:
    """Two processes with the same thousand pages."""
    system = System(kernel, smart_scan=smart_scan)
    contents = system.unique(PAGES)
    system.processes_with(small(*contents), small(*contents))
    found = predict(visited(system, *visits), ENABLED)
    return {name: found.counters[name] for name in COUNTERS}


def age(scans: int) -> int:
    """``mappings.visits`` of a page to which so many full scans came."""
    if scans < OLD_VISITS:
        return scans
    return OLD_VISITS + (scans - OLD_VISITS) % SKIPPING_SCANS


@pytest.mark.parametrize("late", range(40))
def test_two_that_come_one_after_the_other_meet_or_never_do(late: int) -> None:
    """By should_skip_rmap_item(), scan by scan."""
    met = any(
        is_processed(scan + late) and scan > 1 and is_processed(scan) for scan in range(1, 500)
    )
    n = PAGES
    expected = (n, n, 0, 0) if met else (0, 0, 2 * n, 0)
    assert tuple(of_two(age(late), 0).values()) == expected


def test_what_is_kept_apart_is_told() -> None:
    system = System("6.12", smart_scan=1)
    contents = system.unique(PAGES)
    system.processes_with(small(*contents, 7, 8), small(*contents, 9))
    told = [predict(visited(system, *v), ENABLED).warnings for v in ((13, 0), (14, 0))]
    text = "smart_scan keeps 1,000 pages from merging (3.9 MiB)"
    assert [any(text in each for each in texts) for texts in told] == [True, False]


def test_of_three_that_never_meet_two_are_kept_apart_in_parts_too() -> None:
    system = System("6.12", smart_scan=1)
    contents = system.unique(PAGES)
    system.processes_with(*(small(*contents) for _ in range(3)))
    snapshot = visited(system, 0, 13, 15)
    in_parts = Workroom(np.empty, lambda mappings, _: mappings <= PAGES, lambda *_: None)
    for room in (None, in_parts):
        found = predict(snapshot, ENABLED, room=room)
        assert any("smart_scan keeps 2,000 pages from merging" in each for each in found.warnings)


def test_thirteen_scans_are_too_many_and_fourteen_are_not() -> None:
    assert of_two(13, 0)["pages_sharing"] == 0
    assert of_two(age(14), 0)["pages_sharing"] == PAGES


def test_without_smart_scan_all_meet() -> None:
    assert of_two(13, 0, smart_scan=0)["pages_sharing"] == PAGES


def test_the_scan_under_way_still_comes_to_who_stands_behind_its_cursor() -> None:
    """Visit 14 of the one is behind, visit 9 of the other ahead: they meet now or never."""
    assert of_two(OLD_VISITS, 8 | AHEAD)["pages_sharing"] == PAGES
    assert of_two(OLD_VISITS, 9)["pages_sharing"] == 0


def test_a_third_that_comes_meets_the_first_and_brings_the_second() -> None:
    system = System("6.12", smart_scan=1)
    system.processes_with(small(7), small(7), small(7))
    assert predict(visited(system, 13, 0, 13), ENABLED).counters["pages_sharing"] == 2


def test_an_old_pinned_page_does_not_keep_two_new_ones_apart() -> None:
    system = System("6.12", smart_scan=1)
    system.processes_with(small(7, pins=1024, flags=128), small(7), small(7))
    in_step, late = (predict(visited(system, *v), ENABLED) for v in ((0, 0, 0), (13, 0, 0)))
    assert in_step.counters["pages_sharing"] == 0
    assert late.counters["pages_sharing"] == 1


def test_a_pinned_page_in_the_turn_of_another_brings_nobody_together() -> None:
    system = System("6.12", smart_scan=1)
    system.processes_with(small(7), small(7), small(7, pins=1024, flags=128))
    assert predict(visited(system, 13, 0, 13), ENABLED).counters["pages_sharing"] == 0


@pytest.mark.parametrize(("visits", "sharing"), [(8, 1), (9, 0)])
def test_page_by_page_too_the_scan_under_way_has_a_tree(visits: int, sharing: int) -> None:
    """Mapped from elsewhere as well, so that it matters which of the two frames stays."""
    system = System("6.12", smart_scan=1)
    system.processes_with(small(7, outside=1), small(7))
    found = predict(visited(system, OLD_VISITS, visits | AHEAD), ENABLED)
    assert found.counters["pages_sharing"] == sharing


@pytest.mark.parametrize(("visits", "merged"), [(1, 4), (0, 3)])
def test_a_page_with_a_stored_checksum_is_before_the_forked_ones(visits: int, merged: int) -> None:
    """They join their node whatever its limit; the page only while it has room."""
    system = System("6.12", smart_scan=1, max_page_sharing=2)
    page = small(7)[0]
    system.stable_node(page)
    for frame in (page, small(7)[0], page, page):
        system.process(frame)
    found = predict(visited(system, *[visits] * 4), ENABLED)
    assert found.processes["ksm_merging_pages"].sum() == merged


def test_a_forecast_takes_all_as_new_and_says_so() -> None:
    system = System("6.12", smart_scan=1)
    system.processes_with(small(7), small(7))
    snapshot = visited(system, 13, 0)
    snapshot.processes.loc[0, "ksm_rmap_items"] = 1
    found = predict(snapshot, ENABLED)
    course = forecast(snapshot, ENABLED, scans=30)
    assert found.counters["pages_sharing"] == 0
    assert course.at_rest.counters["pages_sharing"] == 1
    assert course.scans["pages_sharing"].iloc[-1] == 1
    assert not any("scanned before" in text for text in found.warnings)
    assert any("does not follow that" in text for text in course.at_rest.warnings)


def test_who_starts_over_has_no_past() -> None:
    system = System("6.12", smart_scan=1)
    system.processes_with(small(7), small(7))
    merged = small(8)[0]
    system.stable_node(merged)
    system.process(merged, flags=16)
    system.process(merged, flags=16)
    snapshot = visited(system, 13, 0, 13, 0)
    assert predict(snapshot, ENABLED).counters["pages_sharing"] == 1
    again = replace(ENABLED, max_page_sharing=100)
    assert predict(snapshot, again).counters["pages_sharing"] == 2


@st.composite
def turns(draw: st.DrawFn) -> Case:
    """A random system of small pages, to which scans came more or less often."""
    system = draw(systems())
    assume(system.release != "6.1")
    mapped = [f for p in system.processes for vma in p.vmas for f, _ in vma.pages.values()]
    assume(not any(frame.folio for frame in mapped))  # others may split them earlier or later
    system.ksm["smart_scan"] = 1
    some = draw(st.lists(st.integers(0, 22), min_size=1, max_size=3))
    count = len(system.processes)
    visits = draw(st.lists(st.sampled_from(some), min_size=count, max_size=count))
    cursor = draw(st.integers(0, 2 * count))
    ahead = [v | AHEAD if mm >= cursor else v for mm, v in enumerate(visits)]
    snapshot = visited(system, *ahead)
    policy = ENABLED.with_tunables(tunables(snapshot.info))
    rules = replace(Rules.of(snapshot.info, policy), knows_visits=True)
    return case_of(snapshot, policy, rules, None)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(turns())
def test_closed_forms_equal_the_simulation_of_every_turn(case: Case) -> None:
    """But for who waits in the tree: with no scan that looks at all, that is another each time."""
    root, closed = hidden_roots(case)
    unsplit = np.full(len(case.facts.items), NEVER, np.int32)
    items, state = items_of(case, case.facts.items > 0, unsplit[:0], closed, unsplit)
    every = simulate_turns(items, state, case.rules)
    found = settle(case)
    unmerged = (Outcome.UNSHARED, Outcome.VOLATILE)
    ours = np.where(np.isin(found.outcome, unmerged), 0, found.outcome)[items.row]
    assert ours.tolist() == np.where(np.isin(every.outcome, unmerged), 0, every.outcome).tolist()
    nodes = [len(np.unique(a[a >= 0])) for a in (found.stable_frame, every.stable_frame)]
    assert nodes[0] == nodes[1]
    assert not len(root)

"""The forecast against ksmd played item by item, and against the prediction at rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estimator.ksm.accounting import unmapped_pieces
from estimator.ksm.case import Case
from estimator.ksm.fate import hidden_roots
from estimator.ksm.forecast import forecast
from estimator.ksm.frames import NEVER
from estimator.ksm.ksmd import MAPPED, ON_NODE, ZERO_PAGE, Ksmd
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.replay import in_locked_vma, items_of
from estimator.ksm.simulate import first_scan
from estimator.ksm.zero_pages import can_vanish
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, folio, small
from tests.test_accounting import worn
from tests.test_model_closed_forms import case_of, systems

ENABLED = Policy(scope="enabled")
SCANS = 40


class Blocking(Ksmd):
    """Once a page of the unstable tree has gone, searches for half of the contents give up."""

    odd = 0

    def search_unstable_tree(self, item: int) -> None:
        hit = (self.content[item] + self.scans) % 2 == self.odd
        if self.zero[item] or self.scans not in self.blocked_from or not hit:
            super().search_unstable_tree(item)


class BlockingOthers(Blocking):
    """Those that ``Blocking`` lets through."""

    odd = 1


def played(case: Case, kind: type[Ksmd] = Ksmd, within_scans: int = 0) -> pd.DataFrame:
    """What every scan shows when each item of each content is visited in each of them.

    ``within``: of the first so many scans, but not the very first, frames_freed after each page.
    """
    roots, closed_trees = hidden_roots(case)
    facts, never = case.facts, np.full(len(case.facts.items), NEVER, dtype=np.int32)
    items, state = items_of(case, facts.items > 0, never[:0], closed_trees, never)
    ksmd = kind(items, state, case.rules)
    lost = can_vanish(facts, case.rules).copy()
    locked = case.frame_of_row[in_locked_vma(case.snapshot, np.arange(len(case.frame_of_row)))]
    lost[locked] = False
    unmapped = unmapped_pieces(case)
    scanned = skipped = 0
    table = []

    def freed() -> int:
        split = [ksmd.folio_ids[n] for n, whole in enumerate(ksmd.unsplit) if not whole]
        gone = lost & np.isin(facts.folio, split)
        empty = np.array(ksmd.mapped[: len(ksmd.frame_ids)]) == 0
        gone[np.array(ksmd.frame_ids, dtype=np.int64)[empty]] = True
        copies = sum(mapped > 0 for mapped in ksmd.mapped[len(ksmd.frame_ids) :])
        return int(np.count_nonzero(gone) - copies + unmapped[split].sum())

    for number in range(1, SCANS + 1):
        within = []
        walked = 0
        if number == 1:
            walked = len(items)
            first_scan(ksmd, range(len(items)))
            scanned += walked
        else:
            ksmd.next_scan()
            for item in range(len(items)):
                if ksmd.where[item] not in (MAPPED, ON_NODE):
                    continue
                walked += 1
                if ksmd.where[item] == MAPPED and ksmd.is_skipped(item):
                    skipped += 1
                    continue
                scanned += 1
                ksmd.visit(item)
                if number <= within_scans:
                    within.append(freed())
        of_node = np.bincount(
            [ksmd.frame[i] for i in range(len(items)) if ksmd.where[i] == ON_NODE],
            minlength=len(ksmd.mapped),
        )
        in_tree = sum(item >= 0 for item in ksmd.tree)
        if number > 1 and ksmd.in_step():
            place = np.searchsorted(items.row, roots)
            in_tree += sum(ksmd.where[int(item)] == MAPPED for item in place)
        shared, merged = int(np.count_nonzero(of_node)), int(of_node.sum())
        table.append(
            {
                "full_scans": number,
                "pages_shared": shared,
                "pages_sharing": merged - shared,
                "pages_unshared": in_tree,
                "pages_volatile": walked - merged - in_tree,
                "ksm_zero_pages": ksmd.where.count(ZERO_PAGE) * case.rules.counts_zero_pages,
                "ksm_rmap_items": walked,
                "pages_scanned": scanned,
                "pages_skipped": skipped,
                "frames_freed": freed(),
                "within": within,
            }
        )
    return pd.DataFrame(table)


@settings(max_examples=70, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_every_scan_equals_ksmd_played_item_by_item(system: System) -> None:
    assert_as_played(system)


def assert_as_played(system: System) -> None:
    snapshot = system.snapshot()
    expected = played(case_of(snapshot)[0])
    found = forecast(snapshot, ENABLED, scans=SCANS).scans
    for name in expected.columns.drop("within"):
        assert found[name].tolist() == expected[name].tolist(), name


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_what_is_free_after_each_page(system: System) -> None:
    """Exact but for copies that break_cow() makes, and contents that are simulated."""
    snapshot = system.snapshot()
    expected = played(case_of(snapshot)[0], within_scans=4)
    found = forecast(snapshot, ENABLED, scans=SCANS)
    for row, within in enumerate(expected["within"]):
        before = found.scans["frames_freed"].iloc[row - 1] if row else 0
        for visited, true in enumerate(within, 1):
            least, most = found.course.freed(row + 1, visited)
            assert least <= true - before <= most, (row + 1, visited)
        if within:
            assert found.scans["frames_freed"].iloc[row] - before in range(least, most + 1)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_the_last_scan_is_the_prediction_at_rest(system: System) -> None:
    snapshot = system.snapshot()
    at_rest = predict(snapshot, ENABLED)
    found = forecast(snapshot, ENABLED)
    last = found.scans.iloc[-1].to_dict()
    unmerged = {name: last.pop(name) for name in ("pages_unshared", "pages_volatile")}
    expected = dict(at_rest.counters)
    assert sum(unmerged.values()) == sum(expected.pop(name) for name in unmerged)
    assert {name: last[name] for name in expected} == expected
    assert last["frames_freed"] == at_rest.physical["frames_freed"]
    assert found.at_rest.counters == at_rest.counters
    assert found.at_rest.outcome.tolist() == at_rest.outcome.tolist()
    if not at_rest.smart_scan:
        assert unmerged["pages_unshared"] == at_rest.counters["pages_unshared"]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems(), st.sampled_from([Ksmd, Blocking, BlockingOthers]))
def test_blocked_searches_stay_inside_the_bounds(system: System, kind: type[Ksmd]) -> None:
    system.ksm["max_page_sharing"] = 256
    assert_inside_the_bounds(system, kind)


@pytest.mark.parametrize("kind", [Blocking, BlockingOthers])
def test_a_piece_that_went_at_its_own_visit_blocks_though_others_like_it_wait(
    kind: type[Ksmd],
) -> None:
    """Zero-filled, it is in the tree before the pinned page that it keeps out."""
    system = System("6.12", use_zero_pages=1, smart_scan=0)
    system.process(*folio([0, 0, *system.unique(2)]))
    system.processes_with(small(0, pins=1), small(*system.unique(3), pins=1))
    snapshot = assert_inside_the_bounds(system, kind)
    assert forecast(snapshot, ENABLED).bounds.reasons


@pytest.mark.parametrize("kind", [Blocking, BlockingOthers])
def test_what_break_cow_did_not_make_new_merges_earlier(kind: type[Ksmd]) -> None:
    """A search that gives up makes no copy, and its item stays as old as the others."""
    system = System("7.3", smart_scan=1)
    for _ in range(2):
        system.process(*folio([0, 0, 0, *system.unique(1)]))
    system.processes_with(*(small(content, pins=1) for content in (6, 7, 8, 9)))
    system.processes_with(*(small(6, 7, 8, 9) for _ in range(3)))
    assert_inside_the_bounds(system, kind)


def test_what_others_keep_need_not_be_what_stays() -> None:
    """A search that gives up at a piece that went makes another frame the KSM page."""
    system = System("6.12")
    system.process(*folio([0, 1, 1, 0]), *small(1, outside=1))
    snapshot = assert_inside_the_bounds(system, Blocking)
    bounds, at_rest = forecast(snapshot, ENABLED).bounds, predict(snapshot, ENABLED)
    assert bounds.least["frames_freed"].iloc[-1] < at_rest.physical["frames_freed"]


def assert_inside_the_bounds(system: System, kind: type[Ksmd]) -> Snapshot:
    snapshot = system.snapshot()
    seen = played(case_of(snapshot)[0], kind)
    bounds = forecast(snapshot, ENABLED, scans=SCANS).bounds
    for name in seen.columns.drop("within"):
        assert (bounds.least[name] <= seen[name]).all(), name
        assert (seen[name] <= bounds.most[name]).all(), name
    return snapshot


def pinned_first(kernel: str, smart_scan: int, forks: int = 0, pinned: int = 1) -> System:
    """Of one page the first copies are pinned, and others follow, one of them shared by fork."""
    system = System(kernel, smart_scan=smart_scan)
    system.processes_with(*(small(7, pins=1) for _ in range(pinned)))
    system.fork(system.process(*small(7)), forks)
    system.processes_with(*(small(7) for _ in range(3)))
    return system


def zeroes(kernel: str, smart_scan: int, use_zero_pages: int) -> System:
    """Huge pages with zero-filled pieces on both nodes, one of them locked; two small ones."""
    system = System(
        kernel, smart_scan=smart_scan, use_zero_pages=use_zero_pages, merge_across_nodes=0
    )
    for node in (0, 1):
        for locked in (False, False, True):
            pieces = folio([0, 0, 0, *system.unique(1)], node=node)
            system.fork(system.process(*pieces, locked=locked), node)
    system.processes_with(small(0), small(0))
    return system


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
@pytest.mark.parametrize("smart_scan", [0, 1])
@pytest.mark.parametrize(
    "make",
    [
        lambda kernel, smart: pinned_first(kernel, smart),
        lambda kernel, smart: pinned_first(kernel, smart, pinned=2),
        lambda kernel, smart: pinned_first(kernel, smart, forks=2),
        lambda kernel, smart: zeroes(kernel, smart, use_zero_pages=0),
        lambda kernel, smart: zeroes(kernel, smart, use_zero_pages=1),
    ],
    ids=["pinned", "pinned-two", "orphans", "zeroes", "zeroes-use-zero"],
)
def test_what_takes_turns(make: Callable[[str, int], System], smart_scan: int, kernel: str) -> None:
    assert_as_played(make(kernel, smart_scan))


@given(worn(), st.sampled_from([None, 2, 3]), st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_forecast_warns_as_the_prediction_does(
    snapshot: Snapshot, limit: int | None, zero_pages: bool
) -> None:
    """More contents are played in their order for the scans than for the state at rest."""
    policy = Policy(max_page_sharing=limit, use_zero_pages=zero_pages)
    assert forecast(snapshot, policy).at_rest.warnings == predict(snapshot, policy).warnings


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(worn(), systems().map(lambda made: made.snapshot())),
    st.sampled_from([None, 2, 3]),
    st.booleans(),
)
def test_with_the_state_at_rest_at_hand_it_says_the_same(
    snapshot: Snapshot, limit: int | None, given_back: bool
) -> None:
    policy = Policy(max_page_sharing=limit)
    alone = forecast(snapshot, policy)
    known = predict(snapshot, policy)
    if given_back:
        known.give_back()
    beside = forecast(snapshot, known.policy, at_rest=known)
    pd.testing.assert_frame_equal(alone.scans, beside.scans)
    for one, other in (
        (alone.bounds.least, beside.bounds.least),
        (alone.bounds.most, beside.bounds.most),
    ):
        pd.testing.assert_frame_equal(one, other)
    assert alone.at_rest.warnings == beside.at_rest.warnings
    assert alone.at_rest.counters == beside.at_rest.counters
    assert alone.settled_in.tolist() == beside.settled_in.tolist()
    for scan in alone.scans["full_scans"].tolist():
        for pages in (0, 3, len(snapshot.mappings)):
            assert alone.course.freed(scan, pages) == beside.course.freed(scan, pages)
            assert alone.within.after(scan, pages) == beside.within.after(scan, pages)


def test_the_forecast_warns_as_the_prediction_does_where_a_page_is_held() -> None:
    made = System("6.12", max_page_sharing=2, merge_across_nodes=0, smart_scan=1)
    flags = FrameFlag.LRU | FrameFlag.MLOCKED
    for pins in (1, 0):
        held = Frame(1, pins=pins, outside=1, flags=flags)
        made.process().map([held], locked=True, mergeable=False)
    snapshot = made.snapshot()
    assert not any("decides for" in text for text in predict(snapshot).warnings)
    assert forecast(snapshot).at_rest.warnings == predict(snapshot).warnings


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_a_forked_page_comes_to_its_node_where_no_search_finds_anything(kernel: str) -> None:
    """In scan 3 the tree's zero-filled page is gone; the second process maps what has merged."""
    system = System(kernel, max_page_sharing=2)
    shared = small(0, 0)
    first = system.process(*folio([0, 0, 0, 0]))
    first.map(shared, locked=True)
    system.process(*folio([0, 0, 0, 0]))
    system.process().map(shared, locked=True)
    assert_as_played(system)

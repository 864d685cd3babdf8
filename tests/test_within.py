"""The counters after each page of a full scan, against ksmd played item by item."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import HealthCheck, given, settings

from estimator.advice.moment import COUNTED, moment
from estimator.advice.pace import Pacing, pace
from estimator.advice.page_cost import CostRange, PageCost
from estimator.ksm.case import Case
from estimator.ksm.fate import hidden_roots
from estimator.ksm.forecast import forecast
from estimator.ksm.frames import NEVER
from estimator.ksm.ksmd import MAPPED, ON_NODE, ZERO_PAGE, Ksmd
from estimator.ksm.policy import Policy
from estimator.ksm.predict import ask
from estimator.ksm.replay import items_of
from estimator.ksm.simulate import first_scan
from tests.synthetic import System
from tests.systems import fork_server
from tests.test_model_closed_forms import case_of, systems

SCANS = 12


def played(case: Case) -> Iterator[tuple[int, int, dict[str, int]]]:
    """(scan, pages visited, counters) after each page.

    What waited in the unstable tree counts until the walk comes by again.
    """
    roots, closed_trees = hidden_roots(case)
    facts, never = case.facts, np.full(len(case.facts.items), NEVER, dtype=np.int32)
    items, state = items_of(case, facts.items > 0, never[:0], closed_trees, never)
    ksmd = Ksmd(items, state, case.rules)
    hidden = set(np.searchsorted(items.row, roots).tolist())
    there = [False] * len(items)
    waiting: set[int] = set()
    for scan in range(1, SCANS + 1):
        if scan > 1:
            ksmd.next_scan()
        new: set[int] = set()
        visited = 0
        for item in range(len(items)):
            waiting.discard(item)
            there[item] = ksmd.where[item] in (MAPPED, ON_NODE)
            if not there[item]:
                continue
            if scan > 1 and ksmd.where[item] == MAPPED and ksmd.is_skipped(item):
                continue
            if scan == 1:
                first_scan(ksmd, (item,))
            else:
                ksmd.visit(item)
            visited += 1
            new = {i for i in ksmd.tree if i >= 0}
            if scan > 1 and ksmd.in_step():
                new |= {i for i in hidden if i <= item and ksmd.where[i] == MAPPED}
            nodes = [ksmd.frame[i] for i in range(len(items)) if ksmd.where[i] == ON_NODE]
            unshared, zeroes = len(waiting | new), ksmd.where.count(ZERO_PAGE)
            yield (
                scan,
                visited,
                {
                    "pages_shared": len(set(nodes)),
                    "pages_sharing": len(nodes) - len(set(nodes)),
                    "pages_unshared": unshared,
                    "pages_volatile": sum(there) - len(nodes) - unshared,
                    "ksm_zero_pages": zeroes * case.rules.counts_zero_pages,
                    "ksm_rmap_items": sum(there),
                },
            )
        waiting = new if scan > 1 else set()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_every_counter_after_every_page(made: System) -> None:
    snapshot = made.snapshot()
    case, _ = case_of(snapshot)
    if case.facts.ksm.any():
        return
    within = forecast(snapshot, Policy(scope="enabled"), scans=SCANS).within
    for scan, visited, counters in played(case):
        found = within.after(scan, visited)
        for name, true in counters.items():
            least, most = found[name]
            assert least <= true <= most, (scan, visited, name)


def test_where_nothing_depends_on_order_all_is_exact() -> None:
    snapshot = fork_server(workers=3, shared=40, own=20)
    found = forecast(snapshot, scans=SCANS)
    case = ask(snapshot).case
    seen = 0
    for scan, visited, counters in played(case):
        if scan > 5:  # smart_scan has skipped one by then
            break
        told = found.within.after(scan, visited)
        assert {name: told[name] for name in counters} == {n: (v, v) for n, v in counters.items()}
        seen += 1
    assert seen > 100


def test_a_moment_has_them_all() -> None:
    """100 pages each 0.1 s: after 1.05 s of the second scan 1,100 pages of it are visited."""
    snapshot = fork_server()
    found = forecast(snapshot)
    free = CostRange(PageCost(1e-12, "given"), PageCost(1e-12, "given"))
    paced = pace(snapshot, found, Pacing(100, 100), free)
    then = moment(found, paced, float(paced.scans["seconds"].iloc[0]) + 0.1 + 1.05)
    assert set(then.counters) == set(COUNTED)
    expected = found.within.after(2, 1100)
    assert {name: then.counters[name] for name in expected} == expected
    assert then.counters["general_profit"][0] < 0 or then.counters["pages_sharing"][0] > 0
    end = moment(found, paced, 1e9).counters
    assert end["pages_unshared"] == (found.scans["pages_unshared"].iloc[-1],) * 2

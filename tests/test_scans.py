"""The forecast against ksmd played item by item, and against the prediction at rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from estimator.errors import UsageError
from estimator.ksm.accounting import unmapped_pieces
from estimator.ksm.case import Case
from estimator.ksm.fate import hidden_roots
from estimator.ksm.forecast import forecast
from estimator.ksm.frames import NEVER
from estimator.ksm.ksmd import MAPPED, ON_NODE, ZERO_PAGE, Ksmd
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome
from estimator.ksm.replay import in_locked_vma, items_of
from estimator.ksm.simulate import first_scan
from estimator.ksm.zero_pages import can_vanish
from tests.synthetic import System, folio, small
from tests.test_model_closed_forms import case_of, systems

ENABLED = Policy(scope="enabled")
SCANS = 40


def played(case: Case) -> pd.DataFrame:
    """What every scan shows when each item of each content is visited in each of them."""
    roots, closed_trees = hidden_roots(case)
    facts, never = case.facts, np.full(len(case.facts.items), NEVER, dtype=np.int32)
    items, state = items_of(case, facts.items > 0, never[:0], closed_trees, never)
    ksmd = Ksmd(items, state, case.rules)
    lost = can_vanish(facts, case.rules)
    locked = case.frame_of_row[in_locked_vma(case.snapshot, np.arange(len(case.frame_of_row)))]
    lost[locked] = False
    unmapped = unmapped_pieces(case)
    scanned = skipped = 0
    table = []
    for number in range(1, SCANS + 1):
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
        of_node = np.bincount(
            [ksmd.frame[i] for i in range(len(items)) if ksmd.where[i] == ON_NODE],
            minlength=len(ksmd.mapped),
        )
        in_tree = sum(item >= 0 for item in ksmd.tree)
        if number > 1 and ksmd.in_step():
            place = np.searchsorted(items.row, roots)
            in_tree += sum(ksmd.where[int(item)] == MAPPED for item in place)
        split = [ksmd.folio_ids[n] for n, whole in enumerate(ksmd.unsplit) if not whole]
        gone = lost & np.isin(facts.folio, split)
        empty = np.array(ksmd.mapped[: len(ksmd.frame_ids)]) == 0
        gone[np.array(ksmd.frame_ids, dtype=np.int64)[empty]] = True
        copies = sum(mapped > 0 for mapped in ksmd.mapped[len(ksmd.frame_ids) :])
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
                "frames_freed": np.count_nonzero(gone) - copies + unmapped[split].sum(),
            }
        )
    return pd.DataFrame(table)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_every_scan_equals_ksmd_played_item_by_item(system: System) -> None:
    snapshot = system.snapshot()
    expected = played(case_of(snapshot)[0])
    found = forecast(snapshot, ENABLED, scans=SCANS).scans
    for name in expected:
        assert found[name].tolist() == expected[name].tolist(), name


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(systems())
def test_the_last_scan_is_the_prediction_at_rest(system: System) -> None:
    snapshot = system.snapshot()
    at_rest = predict(snapshot, ENABLED)
    found = forecast(snapshot, ENABLED, smart_scan=False)
    last = found.scans.iloc[-1].to_dict()
    expected = predict(
        replace(snapshot, info=snapshot.info | {"ksm": system.ksm | {"smart_scan": 0}}), ENABLED
    )
    assert {name: last[name] for name in expected.counters} == expected.counters
    assert last["frames_freed"] == expected.physical["frames_freed"]
    assert at_rest.counters.keys() == expected.counters.keys()

"""ksmd, item by item, where smart_scan has put some of the items out of step with others.

As ``simulate.py``, but each full scan passes over those items that it skips. Nothing is left out
beyond that: what the closed forms can't say here is little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from estimator.ksm.ksmd import MAPPED, Ksmd
from estimator.ksm.readings import Readings, is_processed
from estimator.ksm.rules import Rules
from estimator.ksm.simulate import first_scan
from estimator.ksm.simulation import Frames, Items, Simulation
from estimator.snapshot.flags import AHEAD, SKIPPING_SCANS

_QUIET_SCANS = 4 * SKIPPING_SCANS  # in fewer all have had their turns, even who is as new again


def out_of_step(items: Items, frames: Frames, rules: Rules) -> bool:
    """Whether it matters how often full scans have come to ``items``.

    That is where they came to some oftener than to others, or where break_cow() makes some as new
    again, or where there are stable nodes, which pages with a stored checksum join at once.
    """
    visits = items.visits[~items.on_node]
    if not visits.any():
        return False
    return rules.break_cow_forgets or bool(frames.nodes) or bool((visits != visits[0]).any())


def simulate_turns(items: Items, frames: Frames, rules: Rules) -> Simulation:
    """What is left of the scan under way, and full scans until nothing changes any more.

    What other contents split, they split before. The tree has what the scan has come to already.
    """
    ksmd = Ksmd(items, frames, rules)
    ahead = (items.visits & AHEAD) != 0
    ksmd.scans = ksmd.at_rest = 0
    ksmd.before = (-((items.visits & ~np.uint8(AHEAD)).astype(np.int64) + ahead)).tolist()
    for row, folio in frames.splits:
        ksmd.split_from_outside(row, folio)
    visitors = np.flatnonzero(ahead).tolist()
    for item in np.flatnonzero(~ahead).tolist() if visitors else ():
        if ksmd.visits(item) > 1 and ksmd.tree[ksmd.content[item]] < 0 and ksmd.is_due(item):
            ksmd.tree[ksmd.content[item]] = item
    mapped = [item for item in range(len(items)) if ksmd.where[item] == MAPPED]
    changed_in = 0
    waiting: deque[list[int]] = deque(maxlen=SKIPPING_SCANS)
    while ksmd.scans - changed_in < _QUIET_SCANS:
        visit_those_due(ksmd, visitors, ksmd.before, _due(ksmd))
        if ksmd.active:
            changed_in = ksmd.at_rest = max(ksmd.at_rest, ksmd.scans)
        waiting.append(ksmd.waiting())
        visitors = mapped = [item for item in mapped if ksmd.where[item] == MAPPED]
        ksmd.next_scan()
        ksmd.all_due = False
    still = {item for items in waiting for item in items if ksmd.where[item] == MAPPED}
    return ksmd.result(items, Readings(rules.smart_scan), still)


def _due(ksmd: Ksmd) -> Mapping[int, bool]:
    """Whether this scan looks at those of the items whose ``before`` is that."""
    return {before: is_processed(ksmd.scans - before) for before in set(ksmd.before)}


def visit_those_due(
    ksmd: Ksmd,
    items: Sequence[int],
    group: Sequence[int],
    due: Sequence[bool] | Mapping[int, bool],
) -> list[int]:
    """Visit those of ``items``, in this order, that the scan does not skip; which these were.

    ``due``: whether it looks at the items of each ``group``, unless they are in turns of their own.
    """
    scans, visited = ksmd.scans, list[int]()
    for item in items:
        apart = item in ksmd.awake or item in ksmd.undone
        if not (due[group[item]] or apart) or ksmd.is_skipped(item):
            continue
        visited.append(item)
        if ksmd.visits(item) == 1 and ksmd.before[item] == scans - 1:
            ksmd.current_row = ksmd.row[item]
            first_scan(ksmd, (item,))
        else:
            ksmd.visit(item)
    return visited

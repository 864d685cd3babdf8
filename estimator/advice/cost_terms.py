"""What a full scan costs ksmd in CPU time, by the steps of mm/ksm.c that its pages take.

Every page that a scan processes is visited: scan_get_next_rmap_item() finds it and its rmap_item.
One that is on its stable node needs no more (cmp_and_merge_page()). Any other is hashed. If its
checksum is the one of the visit before, it is searched for in the stable tree and then in the
unstable one, which is built anew in each scan; a tree of n pages takes log2(n) comparisons. A page
of the stable tree is at hand, one of the unstable tree has to be found in its process first
(get_mergeable_page()). What smart_scan skips costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from estimator.arrays import count_where
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import Forecast
from estimator.ksm.prediction import Outcome, Prediction
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.stored_table import in_pieces

_STILL_GROWING = 1 / math.log(2)
"""How many levels fewer a tree has on the average while it grows to its size: log2(n!) / n."""


@dataclass(frozen=True)
class CostTerms:
    """CPU seconds of the steps.

    ``visit_seconds``: a page and its rmap_item are found. ``checksum_seconds``: a page is hashed.
    ``compare_seconds``: one comparison on the way down a tree. ``lookup_seconds``: besides, the
    page of the unstable tree is found for it. ``merge_seconds``: a page is compared in full,
    write-protected, replaced and freed. ``split_seconds``: a large folio is split; None: not known.
    ``wake_seconds``: a batch takes longer by that, since it begins with cold caches, if each of its
    pages is hashed and looked for in the trees; where some are on stable nodes, by less.
    ``tick_seconds``: of the kernel's timer, on whose ticks sleeps end; it costs nothing.
    """

    visit_seconds: float
    checksum_seconds: float
    compare_seconds: float
    lookup_seconds: float
    merge_seconds: float
    split_seconds: float | None
    wake_seconds: float
    tick_seconds: float


@dataclass(frozen=True)
class ScanWork:
    """What one full scan does.

    ``visited_pages``: all that it processes; ``hashed_pages``: those of them that were on no stable
    node. ``comparisons``: on all ways down both trees; ``lookups``: for those in the unstable tree,
    of pages that are mapped one by one (all pages of a huge page share what is read to find one).
    ``merged_pages``: that come onto a stable node. ``split_folios``: large ones.
    """

    visited_pages: int
    hashed_pages: int
    comparisons: float
    lookups: float
    merged_pages: int
    split_folios: float

    def cpu_seconds(self, terms: CostTerms) -> float:
        """CPU time of the scan in one batch.

        Raises CannotAnswerError if it splits folios, and what that costs is not known.
        """
        if terms.split_seconds is None and self.split_folios:
            raise CannotAnswerError(
                "large folios are split, and what that costs is not among the terms of --page-cost",
                hint="add split=MICROSECONDS; some 130 on one 6.18 virtual machine",
            )
        return (
            self.visited_pages * terms.visit_seconds
            + self.hashed_pages * terms.checksum_seconds
            + self.comparisons * terms.compare_seconds
            + self.lookups * terms.lookup_seconds
            + self.merged_pages * terms.merge_seconds
            + self.split_folios * (terms.split_seconds or 0.0)
        )


@dataclass(frozen=True)
class _State:
    """Of the trees after a scan, in pages; ``merged``: shared and sharing."""

    shared: int
    merged: int
    unshared: int = 0


def works(forecast: Forecast) -> list[ScanWork]:
    """The work of each full scan of ``forecast``.

    The first one stores checksums: it searches only for what it merges, or for every page where the
    stable tree is searched before the checksum is looked at (up to 6.10). Folios are taken for
    split as pages merge.
    """
    rest = forecast.at_rest
    names = ["pages_scanned", "pages_shared", "pages_sharing", "pages_unshared"]
    scans: list[list[int]] = forecast.scans[names].to_numpy().tolist()
    at_first = count_where(
        len(rest.outcome),
        lambda piece: (rest.outcome[piece] == Outcome.MERGED) & (forecast.settled_in[piece] == 0),
    )
    before = _State(min(at_first, scans[0][1]), at_first)
    merging, one_by_one = _merged(rest) - at_first, mapped_one_by_one(rest)
    found, already = [], 0
    for number, (scanned, shared, sharing, unshared) in enumerate(scans, 1):
        after = _State(shared, shared + sharing, unshared)
        visited, already = scanned - already, scanned
        splits = _splits(rest) * max(after.merged - before.merged, 0) / max(merging, 1)
        hashed = visited - min(before.merged, visited)
        searched = max(0, hashed - _changed(rest)) if number > 1 else None
        found.append(_work(rest, before, after, visited, searched, splits, one_by_one))
        before = after
    return found


def coming_work(
    rest: Prediction,
    before: Mapping[str, int] | None,
    after: Mapping[str, int],
    one_by_one: float,
) -> ScanWork:
    """The work of a full scan that some processes came before.

    ``before``, ``after``: the counters when it begins and ends; pages_scanned: of this scan. Who is
    new has its checksums stored. ``one_by_one``: see ``mapped_one_by_one``.
    """
    zero = dict.fromkeys(after, 0)
    states = [
        _State(c["pages_shared"], c["pages_shared"] + c["pages_sharing"], c["pages_unshared"])
        for c in (before or zero, after)
    ]
    visited = after["pages_scanned"]
    new = max(0, after["ksm_rmap_items"] - (before or zero)["ksm_rmap_items"])
    searched = max(0, visited - min(states[0].merged, visited) - _changed(rest) - new)
    splits = _splits(rest) * max(states[1].merged - states[0].merged, 0) / max(_merged(rest), 1)
    return _work(rest, states[0], states[1], visited, searched, splits, one_by_one)


def merging_work(prediction: Prediction) -> ScanWork:
    """The scan in which nearly all merges, the dearest one."""
    counters = prediction.counters
    outcome = prediction.outcome
    visited = count_where(len(outcome), lambda piece: outcome[piece] > Outcome.UNKNOWN)
    after = _State(counters["pages_shared"], _merged(prediction), counters["pages_unshared"])
    searched = visited - _changed(prediction)
    one_by_one = mapped_one_by_one(prediction)
    return _work(
        prediction, _State(0, 0), after, visited, searched, _splits(prediction), one_by_one
    )


def resting_work(prediction: Prediction, visited_pages: int) -> ScanWork:
    """A scan of so many pages once all has merged."""
    counters = prediction.counters
    state = _State(counters["pages_shared"], _merged(prediction), counters["pages_unshared"])
    searched = max(0, visited_pages - state.merged - _changed(prediction))
    one_by_one = mapped_one_by_one(prediction)
    return _work(prediction, state, state, visited_pages, searched, 0, one_by_one)


def _work(
    prediction: Prediction,
    before: _State,
    after: _State,
    visited: int,
    searched: int | None,
    splits: float,
    one_by_one: float,
) -> ScanWork:
    """``searched``: pages whose checksum is as before; None: in the first scan."""
    merged, nodes = max(after.merged - before.merged, 0), max(after.shared - before.shared, 0)
    hashed = visited - min(before.merged, visited)
    first = searched is None
    searched = merged if searched is None else searched
    in_stable = min(searched, max(0, merged - 2 * nodes))  # the first two of a node meet elsewhere
    inserted = 0 if first else searched - in_stable
    if not prediction.snapshot.info["features"]["checksum_before_stable_tree"]:
        searched = hashed
    stable_levels = (_levels(before.shared) + _levels(after.shared)) / 2
    levels = max(0.0, _levels(after.unshared + nodes) - _STILL_GROWING)
    return ScanWork(
        visited_pages=visited,
        hashed_pages=hashed,
        comparisons=(searched + nodes) * stable_levels + inserted * levels,
        lookups=inserted * levels * one_by_one,
        merged_pages=merged,
        split_folios=splits,
    )


def mapped_one_by_one(prediction: Prediction) -> float:
    """The part of the pages that ksmd visits which is not mapped by a PMD."""
    scanned = huge = 0
    for piece, some in in_pieces(prediction.snapshot.mappings, ("flags",)):
        flags = some["flags"].to_numpy()[prediction.outcome[piece] > Outcome.UNKNOWN]
        scanned += len(flags)
        huge += int(np.count_nonzero(flags & MappingFlag.HUGE))
    return 1.0 - huge / scanned if scanned else 1.0


def _levels(pages: int) -> float:
    return math.log2(max(pages, 1))


def _merged(prediction: Prediction) -> int:
    return prediction.counters["pages_shared"] + prediction.counters["pages_sharing"]


def _changed(prediction: Prediction) -> int:
    """Pages whose checksum is never the same; none where nobody has looked twice."""
    return prediction.coverage.changed_pages


def _splits(prediction: Prediction) -> int:
    return int(np.count_nonzero(prediction.freed.split))

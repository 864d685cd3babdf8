"""What is not exact between the first scan and the state at rest, and within which bounds it lies.

Searches of the unstable tree. A search that comes to an item whose page has gone gives up: its page
is neither inserted nor merged in this scan (unstable_tree_search_insert() in mm/ksm.c). That
happens where a split of a huge page takes a zero-filled piece that is in the tree. Which searches
come by depends on how the bytes of pages compare, which hashes do not tell. So from the place in
the scan where the page goes, each search may give up or not; what has a stable node by then is not
concerned. In later scans the item is not in the tree any more. Another page may be the first that
merges, and becomes the KSM page: fewer frames are freed where one that others map as well, who keep
it anyhow, is not the one that stays. With smart_scan, where break_cow()
makes an item new (7.3), a search that gave up can also be for the good: what it did not undo keeps
its age, and merges earlier than without.

Pages that ksmd has seen before. Where KSM ran, an unmerged item has its checksum already: it can
merge in the first scan. How smart_scan skips it depends on its age, which snapshots do not have.
Nor do they have ksmd's cursor (struct ksm_scan): the first scan may be all but over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from estimator.arrays import Empty, Ints, Mask, made, pieces, rows_where
from estimator.ksm.case import Case
from estimator.ksm.contents import per_frame
from estimator.ksm.fate import Fate
from estimator.ksm.frames import NEVER
from estimator.ksm.prediction import Prediction
from estimator.ksm.readings import processes_all
from estimator.ksm.scans import (
    LATEST,
    MERGING,
    Scans,
    Times,
    alone_in_tree,
    copies,
    scan_table,
    vanishing_rows,
)
from estimator.ksm.timing import Timing
from estimator.ksm.zero_pages import can_vanish


@dataclass(frozen=True)
class ScanBounds:
    """``least``, ``most``: tables like ``Forecast.scans``. ``reasons``: for the reader."""

    least: pd.DataFrame
    most: pd.DataFrame
    reasons: list[str]


@dataclass(frozen=True)
class Blocked:
    """Searches that give up.

    ``rows``: per scan in which some do, the row from which on; ``since``: the first of these scans.
    ``delay``: of the scans that process all items, so many pass before all searches are free again.
    ``doubtful``: bool per content, may merge by so many scans later than the forecast says.
    ``folios``: bool per large folio, may be split later. ``zeroes``: so may what else is
    zero-filled. ``until``: the scan by which all that has happened. ``ages``: those of items are in
    doubt, too, for good.
    """

    since: int
    rows: dict[int, int]
    delay: int
    doubtful: Mask
    folios: Mask
    zeroes: bool
    until: int
    ages: bool


def scan_bounds(
    case: Case,
    timing: Timing,
    fate: Fate,
    prediction: Prediction,
    times: Times,
    scans: pd.DataFrame,
    blocked: Blocked | None,
    *,
    seen: bool,
) -> ScanBounds:
    """The bounds of every number of ``scans``; equal where it is exact.

    ``case``: ``settled`` is enough. ``blocked``: of ``blocked_searches``. ``seen``: ksmd has seen
    pages before, see ``seen_before``.
    """
    if blocked is None and not seen:
        return ScanBounds(scans, scans, [])
    early, late = times, times
    if blocked is not None:
        since, delay = blocked.since, blocked.delay
        changed = partial(_all_doubtful, case, fate, prediction, times, blocked)
        late = changed(lambda when: _delayed(case, when, delay))  # until the last it can wait for
        if blocked.ages:
            early = changed(lambda when: np.full(len(when), since))
    if seen:
        early = _moved(early, -1, prediction.empty)
        late = _moved(times, LATEST, prediction.empty) if case.rules.smart_scan else late
    tables = [
        scans,
        *(scan_table(case, timing, fate, prediction, t, len(scans)) for t in (late, early)),
    ]
    least, most = (
        pd.DataFrame({name: bound([t[name] for t in tables], axis=0) for name in scans})
        for bound in (np.min, np.max)
    )
    for name in ("pages_scanned", "pages_skipped"):
        each = [np.diff(t[name], prepend=0) for t in tables]
        least[name], most[name] = np.cumsum(np.min(each, axis=0)), np.cumsum(np.max(each, axis=0))
    if blocked is not None:
        alone = alone_in_tree(timing, fate, prediction.empty)
        fewest, many = _unshared_of_blocked(case, alone, blocked, scans)
        least["pages_unshared"], most["pages_unshared"] = fewest, many
        waiting = scans["full_scans"].between(blocked.since, blocked.until, inclusive="left")
        copied = copies(timing)[0] if blocked.ages else fate.copied
        most["frames_freed"] += waiting * len(copied)
        fewer, more = _other_nodes(case, fate, blocked.doubtful)
        then = scans["full_scans"] >= blocked.since
        least["frames_freed"] -= then * fewer
        most["frames_freed"] += then * more
    unmerged = most["ksm_rmap_items"] - least["pages_shared"] - least["pages_sharing"]
    if blocked is not None and blocked.ages:
        _skip_any(least, most, unmerged, blocked.since)
    if seen:
        through = len(scans) if case.rules.smart_scan else min(prediction.scans, len(scans))
        least.loc[: through - 1, "pages_unshared"] = 0
        most.loc[: through - 1, "pages_unshared"] = unmerged[:through]
        if case.rules.smart_scan:
            _skip_any(least, most, unmerged, since=1)
        least["pages_scanned"] -= least["pages_scanned"].iloc[0]  # of it, all but the last page
    for bound in (least, most):
        bound["bytes_saved"] = bound["frames_freed"] * case.rules.page_bytes
    merged = most["pages_shared"] + most["pages_sharing"]
    volatile = least["ksm_rmap_items"] - merged - most["pages_unshared"]
    least["pages_volatile"] = np.maximum(volatile, 0)
    most["pages_volatile"] = unmerged - least["pages_unshared"]
    return ScanBounds(least, most, _reasons(case, blocked, seen=seen))


def _skip_any(least: pd.DataFrame, most: pd.DataFrame, unmerged: pd.Series, since: int) -> None:
    """From scan ``since`` on smart_scan may skip each page that is not merged, or not."""
    then = least["full_scans"] >= since
    merged = least["pages_shared"] + least["pages_sharing"]
    for name, fewest, many in (
        ("pages_scanned", merged, most["ksm_rmap_items"]),
        ("pages_skipped", 0 * merged, unmerged),
    ):
        for bound, in_each in ((least, fewest), (most, many)):
            was = bound[name].diff().fillna(bound[name])
            bound[name] = in_each.where(then, was).cumsum().astype(np.int64)


def blocked_searches(case: Case, timing: Timing, fate: Fate, times: Times) -> Blocked | None:
    """Where searches of the unstable tree give up; None: nowhere."""
    rows = dict(timing.ordered.simulation.blocked_from) if timing.ordered is not None else {}
    for row in times.gone_in_tree.tolist():
        rows[MERGING] = min(row, rows.get(MERGING, row))
    if case.facts.opaque.any():
        rows = dict.fromkeys(range(MERGING, LATEST), -1)
    if not rows:
        return None
    since = min(rows)
    doubtful = _doubtful(case, timing, fate, since, rows[since])
    folios = np.zeros(len(times.split_in), dtype=np.bool_)
    of_folio = case.facts.folio
    folios[of_folio[per_frame(doubtful, case.contents) & (of_folio >= 0)]] = True
    with_zeroes = np.zeros_like(folios)
    with_zeroes[of_folio[can_vanish(case.facts, case.rules)]] = True
    split_later = folios & with_zeroes & (times.split_in > 0)
    waiting = int(np.count_nonzero(split_later)) * (not case.rules.use_zero_pages)
    processing = _processing_scans(case)
    delay = int(np.count_nonzero((processing >= since) & (processing <= max(rows)))) + waiting
    slow, last = per_frame(doubtful, case.contents), since
    for piece in pieces(len(times.settled_in)):
        concerned = slow[case.frame_of_row[piece]]
        last = int(times.settled_in[piece][concerned].max(initial=last))
    return Blocked(
        since=since,
        rows=rows,
        delay=delay,
        doubtful=doubtful,
        folios=folios,
        zeroes=waiting > 0,
        until=int(_delayed(case, np.array([last]), delay)[0]),
        ages=_smart_scan_forgets(case) and timing.ordered is not None,
    )


def _processing_scans(case: Case) -> Ints:
    """The numbers of the full scans that process all items."""
    smart_scan = case.rules.smart_scan
    processing = (n for n in range(1, LATEST + 1) if processes_all(n, smart_scan=smart_scan))
    return np.fromiter(processing, np.int64)


def _delayed(case: Case, scans: Scans | Ints, delay: int) -> Ints:
    """``delay`` later, counted in scans that process all items; from the next such one."""
    processing = _processing_scans(case)
    place = np.searchsorted(processing, scans) + delay
    return processing[np.minimum(place, len(processing) - 1)]


def _doubtful(case: Case, timing: Timing, fate: Fate, since: int, row: int) -> Mask:
    """Contents that may need the unstable tree at ``row`` of scan ``since`` or later."""
    facts, contents = case.facts, case.contents
    doubtful = np.zeros(len(contents), dtype=np.bool_)
    if since == MERGING:
        several = np.flatnonzero(np.diff(contents.starts) > 1)
        frame, begin, _ = contents.frames_of(several)
        first = np.where(facts.blocked[frame], NEVER, facts.first[frame])
        items = np.add.reduceat(facts.items[frame], begin)
        met = np.add.reduceat((first < row).astype(np.int64), begin) > 1
        blocked = np.logical_or.reduceat(facts.blocked[frame] & (facts.items[frame] > 0), begin)
        node = np.logical_or.reduceat(facts.node[frame], begin)
        settled = (met & ~blocked) | node
        doubtful[several] = ~settled | (items > case.rules.max_page_sharing)
    if timing.ordered is not None:
        doubtful[contents.of_frame[case.frame_of_row[timing.ordered.rows]]] = True
    doubtful[contents.of_frame[facts.zero & facts.known]] = False
    return doubtful


def _all_doubtful(
    case: Case,
    fate: Fate,
    prediction: Prediction,
    times: Times,
    blocked: Blocked,
    change: Callable[[Scans], Ints],
) -> Times:
    """``times`` with a ``change`` of what is doubtful and comes when searches can give up."""
    doubtful, frame = blocked.doubtful, case.frame_of_row
    if blocked.zeroes:
        doubtful = doubtful.copy()
        doubtful[case.contents.of_frame[case.facts.zero & case.facts.known]] = True
    by_split = fate.vanished & np.append(blocked.folios, False)[case.facts.folio]
    slow_frames = per_frame(doubtful, case.contents) | by_split

    def changed(when: Scans, slow: Callable[[slice], Mask]) -> Scans:
        def of(piece: slice) -> Ints:
            concerned = slow(piece) & (when[piece] >= blocked.since)
            return np.where(concerned, change(when[piece]), when[piece])

        return made(len(when), np.uint16, of, prediction.empty)

    vanishing = vanishing_rows(fate, prediction.empty)
    nodes = rows_where(len(fate.node), lambda piece: fate.node[piece], prediction.empty)
    going = prediction.freed.gone
    gone = rows_where(len(going), lambda piece: going[piece], prediction.empty)
    late_folios = blocked.folios | blocked.zeroes
    return replace(
        times,
        settled_in=changed(times.settled_in, lambda piece: slow_frames[frame[piece]]),
        freed_in=changed(times.freed_in, lambda piece: slow_frames[frame[vanishing[piece]]]),
        nodes_in=changed(times.nodes_in, lambda piece: slow_frames[nodes[piece]]),
        gone_in=changed(times.gone_in, lambda piece: slow_frames[gone[piece]]),
        split_in=changed(times.split_in, lambda piece: late_folios[piece]),
    )


def _moved(times: Times, scans: int, empty: Empty) -> Times:
    """What comes after the first scan, so many scans later; earlier if it is negative."""

    def moved(when: Scans) -> Scans:
        def of(piece: slice) -> Ints:
            other = np.minimum(when[piece].astype(np.int64) + scans, LATEST)
            return np.where(when[piece] >= MERGING, other, when[piece])

        return made(len(when), np.uint16, of, empty)

    return replace(
        times,
        settled_in=moved(times.settled_in),
        freed_in=moved(times.freed_in),
        nodes_in=moved(times.nodes_in),
        gone_in=moved(times.gone_in),
        split_in=moved(times.split_in),
    )


def _unshared_of_blocked(
    case: Case, alone: Mask, blocked: Blocked, scans: pd.DataFrame
) -> tuple[Ints, Ints]:
    """The least and the most of pages_unshared after each scan. ``alone``: see ``alone_in_tree``.

    A page that nothing equals may not be inserted; one that would merge may wait in the tree.
    """
    least, most = (scans["pages_unshared"].to_numpy().copy() for _ in range(2))
    doubtful = int(np.count_nonzero(blocked.doubtful))
    for scan in range(blocked.since, len(scans) + 1 if blocked.ages else blocked.until):
        if scan > len(scans):
            break
        if not processes_all(scan, smart_scan=case.rules.smart_scan):
            if blocked.ages:
                least[scan - 1] = 0
                most[scan - 1] += doubtful
            continue
        until = max(blocked.rows.get(scan, len(alone)), 0)
        certain = int(np.count_nonzero(alone[:until]))
        if blocked.zeroes and scan > blocked.since:
            certain = 0
        least[scan - 1] = min(certain, least[scan - 1])
        most[scan - 1] += doubtful
    return least, most


def _other_nodes(case: Case, fate: Fate, doubtful: Mask) -> tuple[int, int]:
    """How many frames fewer and more are freed if other ones become the KSM pages of a content.

    ``doubtful``: bool per content. A frame that is mapped outside of the items is kept anyhow.
    """
    facts, contents = case.facts, case.contents
    can_be = per_frame(doubtful, contents) & (facts.items > 0) & ~facts.blocked & ~facts.node
    frame = np.flatnonzero(can_be)
    content, outside = contents.of_frame[frame], facts.mapcount[frame] > facts.items[frame]

    def of_each(chosen: Mask) -> Ints:
        return np.bincount(content[chosen], minlength=len(contents))

    nodes, kept_nodes = of_each(fate.node[frame]), of_each(fate.node[frame] & outside)
    kept, others = of_each(outside), of_each(~outside)
    fewest, most = np.maximum(nodes - others, 0), np.minimum(nodes, kept)
    return int((kept_nodes - fewest).sum()), int((most - kept_nodes).sum())


def _smart_scan_forgets(case: Case) -> bool:
    """Whether smart_scan takes an item for new after break_cow()."""
    return case.rules.smart_scan and case.rules.break_cow_forgets


def _reasons(case: Case, blocked: Blocked | None, *, seen: bool) -> list[str]:
    found = []
    if blocked is not None and case.facts.opaque.any():
        found.append(
            "PROT_NONE pages in the unstable tree keep searches from what lies behind them, and "
            "where that is depends on the bytes of pages: what merges when has bounds."
        )
    elif blocked is not None:
        found.append(
            f"From scan {blocked.since} to scan {blocked.until}, pages may wait for the next scan: "
            "searches of the unstable tree give up at a zero-filled piece of a huge page that a "
            "split took, and which ones come by depends on the bytes of pages. The numbers are "
            "those without that, and have bounds."
        )
    if seen:
        found.append(
            "ksmd has seen pages of these processes before, and may be in the middle of a scan: "
            "they can merge a scan earlier than said"
            + (
                ", and when smart_scan skips them depends on ages that the snapshot does not have, "
                "so no scan can be named by which all has merged."
                if case.rules.smart_scan
                else "."
            )
        )
    return found

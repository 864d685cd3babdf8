"""Snapshot and policy in, the state of KSM at rest out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from estimator.arrays import Empty, Mask, count_where, made
from estimator.errors import CannotAnswerError
from estimator.ksm.accounting import freed_frames, unmapped_pieces
from estimator.ksm.as_if import read_as
from estimator.ksm.case import Case, case_of
from estimator.ksm.caveats import OtherLooks, Told
from estimator.ksm.fate import Fate, fate_of, settle, solve
from estimator.ksm.hash_parts import Workroom, settle_in_parts
from estimator.ksm.moved_nodes import without_moved_nodes
from estimator.ksm.policy import Policy
from estimator.ksm.prediction import Prediction
from estimator.ksm.rules import Rules, tunables
from estimator.ksm.seen_nodes import with_seen_nodes
from estimator.ksm.timing import Timing, timing_of
from estimator.ksm.totals import summarise
from estimator.ksm.unmerge import has_to_start_over, unmerged
from estimator.releases import better_dump
from estimator.snapshot.changes import Changes, known_changes
from estimator.snapshot.flags import UNKNOWN_NODE
from estimator.snapshot.snapshot import Snapshot


def predict(
    snapshot: Snapshot,
    policy: Policy | None = None,
    *,
    later: Snapshot | None = None,
    room: Workroom | None = None,
) -> Prediction:
    """What ksmd's counters will be when memory holds still until it is at rest.

    ``later``: a snapshot of the same system some seconds on; pages that changed in between are
    taken to keep changing and never merge; what it does not have is not taken to be steady.
    ``room``: where the whole does not fit, it is worked out part by part of the range of hashes.
    Pure: the same input gives the same answer, in parts too.

    Returns a ``Prediction``: ``counters`` (what /sys/kernel/mm/ksm will show, pages), ``physical``
    (what the machine gets back, frames and bytes), ``coverage`` (how much of the candidates was
    known), ``warnings``, one row per process, VMA and cgroup, and an ``Outcome`` per mapping.

    Raises UsageError for selectors that match nothing and for snapshots that can't be compared,
    CannotAnswerError for a snapshot that lacks what a rule needs, or contents (``upper_bound``).

    With ``snapshot = open_snapshot("web.ksm")``, of two processes with three pages each, two of
    which are equal:

    >>> found = predict(snapshot)
    >>> {name: found.counters[name] for name in ("pages_shared", "pages_sharing", "pages_unshared")}
    {'pages_shared': 2, 'pages_sharing': 2, 'pages_unshared': 2}
    >>> found.physical["bytes_saved"], found.coverage.hashed_share
    (8192, 1.0)
    >>> found.processes[["comm", "ksm_rmap_items", "ksm_merging_pages"]]
      comm  ksm_rmap_items  ksm_merging_pages
    0  web               3                  2
    1  web               3                  2
    """
    question = ask(snapshot, policy, later=later, room=room, once=True)
    return question.answer(question.at_rest())


@dataclass(frozen=True)
class Question:
    """A snapshot and a policy, with what has to be known to answer.

    ``policy`` has its tunables filled in. ``as_found``: the snapshot before anything was unmerged.
    ``at_rest``: works out the fate of every mapping; ``in_time``: so that what each full scan shows
    is known too, see ``ask``. ``empty``: makes the arrays of all of them.
    """

    case: Case
    policy: Policy
    told: Told
    as_found: Snapshot
    at_rest: Callable[[], Fate]
    in_time: Callable[[], tuple[Fate, Timing]]
    empty: Empty

    def answer(self, fate: Fate) -> Prediction:
        """What is told of the state at rest."""
        prediction = summarise(self.case, self.policy, fate, self.told)
        content = prediction.content[: len(self.as_found.frames)]
        return replace(prediction, snapshot=self.as_found, content=content, empty=self.empty)


def ask(
    snapshot: Snapshot,
    policy: Policy | None = None,
    *,
    later: Snapshot | None = None,
    room: Workroom | None = None,
    through: int | None = None,
    once: bool = False,
    as_new: bool = False,
) -> Question:
    """Gather all that a prediction looks at; arguments and errors as for ``predict``.

    ``through``: the full scan up to which ``Question.in_time`` tells; None: it is not asked.
    ``once``: ``Question.at_rest`` is asked once and nothing else, ``Question.case`` is ``settled``.
    ``as_new``: as if no full scan had come to any page, which ``Question.in_time`` always is.
    """
    if snapshot.info.get("without_contents"):
        raise CannotAnswerError(
            "page contents were left out of this snapshot (--without-contents): which pages are "
            "equal is not known",
            hint=_with_contents(snapshot.info),
        )
    ksm = tunables(snapshot.info)
    policy = read_as(snapshot, policy or Policy()).with_tunables(ksm)
    empty = room.empty if room else np.empty
    across = bool(ksm["merge_across_nodes"])
    snapshot = with_seen_nodes(snapshot, merge_across_nodes=across, empty=empty)
    rules = Rules.of(snapshot.info, policy)
    if not rules.merge_across_nodes:
        _require_nodes(snapshot)
    changes = known_changes(snapshot, later, empty)
    as_found = snapshot
    starts_over = has_to_start_over(snapshot, policy, ksm)
    if rules.smart_scan and through is None and not (starts_over or as_new):
        rules = replace(rules, knows_visits="visits" in snapshot.mappings)
    if starts_over:
        snapshot = unmerged(snapshot, empty)
    elif not rules.merge_across_nodes:
        snapshot = without_moved_nodes(snapshot)
    asked = _Asked(snapshot, policy, rules, room, through, once)
    case, at_rest, in_time = asked.case(changes.changed if changes else None)
    candidates = case.candidates
    if len(candidates.frame) and not case.facts.known.any():
        raise CannotAnswerError(
            "no page of any process could be read: there is nothing to compare",
            hint="take a dump that includes user pages (makedumpfile -d 1, 3, 17 or 19)",
        )
    looks = _other_looks(asked, case, changes, empty) if changes else None
    return Question(case, policy, Told(looks, starts_over), as_found, at_rest, in_time, empty)


@dataclass(frozen=True)
class _Asked:
    snapshot: Snapshot
    policy: Policy
    rules: Rules
    room: Workroom | None
    through: int | None
    once: bool

    def case(
        self, changed: Mask | None
    ) -> tuple[Case, Callable[[], Fate], Callable[[], tuple[Fate, Timing]]]:
        """The case where ``changed`` (bool per mapping) keep changing, and what settles it."""
        if self.room is None:
            case = case_of(self.snapshot, self.policy, self.rules, changed)
            if not self.once:
                return case, partial(settle, case), partial(self._in_time, case)
            whole = [case]  # which nobody else holds on to
            return case.settled(), lambda: settle(whole.pop()), lambda: self._in_time(whole.pop())
        in_parts = partial(
            settle_in_parts, self.snapshot, self.policy, self.rules, changed, self.room
        )
        case, fate, timing = in_parts(self.through)
        at_rest = (lambda: fate) if self.through is None else (lambda: in_parts()[1])
        return case, at_rest, lambda: (fate, timing)

    def _in_time(self, case: Case) -> tuple[Fate, Timing]:
        solved = solve(case, self.through)
        return fate_of(case, solved), timing_of(solved)


def _other_looks(asked: _Asked, case: Case, changes: Changes, empty: Empty) -> OtherLooks:
    candidates = case.candidates

    def pages(mask: Mask) -> int:
        items = count_where(
            len(candidates.frame), lambda piece: mask[candidates.row_numbers(piece)]
        )
        changing = candidates.changing
        return items + count_where(len(changing), lambda piece: mask[changing[piece]])

    def freed(changed: Mask | None) -> int:
        other, at_rest, _ = replace(asked, through=None, once=True).case(changed)
        return freed_frames(other, at_rest(), unmapped_pieces(other)).frames

    ever = made(
        len(changes.changed),
        np.bool_,
        lambda piece: changes.changed[piece] | changes.changed_before[piece],
        empty,
    )
    return OtherLooks(
        compared_pages=pages(changes.compared),
        freed_if_still_frames=freed(None) if ever.any() else None,
        changed_before_pages=pages(changes.changed_before),
        freed_of_still_frames=freed(ever) if changes.changed_before.any() else None,
    )


def _with_contents(info: Mapping[str, Any]) -> str:
    """How to get a snapshot that can answer, and what this one can."""
    again = "collect again without that option"
    if info["source"].get("kind") == "core":
        again += f"; for a dump with user pages, {better_dump(info['kernel']['release'])}"
    return f"{again}; until then, predict and report give an upper bound"


def _require_nodes(snapshot: Snapshot) -> None:
    """Raise CannotAnswerError unless the NUMA node of each frame is known."""
    unknown = int((snapshot.frames["node"] == UNKNOWN_NODE).sum())
    if unknown:
        raise CannotAnswerError(
            f"the NUMA node of {unknown:,} frames is not known, and with merge_across_nodes off "
            "pages merge only within a node",
            hint="collect with --live, or predict with --merge-across-nodes",
        )

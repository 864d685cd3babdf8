"""Snapshot and policy in, the state of KSM at rest out."""

from __future__ import annotations

from estimator.errors import CannotAnswerError
from estimator.ksm.candidates import find_candidates
from estimator.ksm.case import Case
from estimator.ksm.contents import group_by_content
from estimator.ksm.facts import frame_facts
from estimator.ksm.fate import settle
from estimator.ksm.policy import Policy
from estimator.ksm.prediction import Prediction
from estimator.ksm.rules import Rules, tunables
from estimator.ksm.summary import summarise
from estimator.snapshot import Snapshot


def predict(snapshot: Snapshot, policy: Policy | None = None) -> Prediction:
    """What ksmd's counters will be when memory holds still until it is at rest.

    Pure: the same snapshot and policy give the same answer. Raises UsageError for selectors that
    match nothing, CannotAnswerError for a snapshot that lacks what a rule needs.
    """
    policy = (policy or Policy()).with_tunables(tunables(snapshot.info))
    rules = Rules.of(snapshot.info, policy)
    candidates = find_candidates(snapshot, policy, rules)
    facts = frame_facts(snapshot, candidates, rules)
    if len(candidates.frame) and not facts.known.any():
        raise CannotAnswerError(
            "no page of any process could be read: there is nothing to compare",
            hint="take a dump that includes user pages (makedumpfile -d 1, 3, 17 or 19)",
        )
    contents = group_by_content(
        snapshot.frames, facts, snapshot.mappings["frame_id"].to_numpy(), rules
    )
    case = Case(snapshot, rules, candidates, contents, facts)
    return summarise(case, policy, settle(case))

"""A snapshot under a policy, with everything the rules look at."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from estimator.arrays import Mask
from estimator.ksm.candidates import Candidates, find_candidates
from estimator.ksm.contents import Contents, content_keys, group_by_content
from estimator.ksm.frames import FrameFacts, frame_facts, items_of_frames, look_at_frames
from estimator.ksm.policy import Policy
from estimator.ksm.rules import Rules
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Case:
    """What the steps of a prediction hand on."""

    snapshot: Snapshot
    rules: Rules
    candidates: Candidates
    contents: Contents
    facts: FrameFacts

    @property
    def frame_of_row(self) -> npt.NDArray[np.uint32]:
        """frame_id per row of ``mappings``."""
        return self.snapshot.mappings["frame_id"].to_numpy()

    @property
    def mapping_flags(self) -> npt.NDArray[np.uint8]:
        """``MappingFlag`` per row of ``mappings``."""
        return self.snapshot.mappings["flags"].to_numpy()

    def settled(self) -> Case:
        """Without what only they ask who decide what becomes of the frames: memory for the rest."""
        none = np.zeros(0, np.int32)
        contents = replace(self.contents, order=none, starts=none)
        return replace(self, contents=contents, facts=replace(self.facts, first=none))


def case_of(snapshot: Snapshot, policy: Policy, rules: Rules, changed: Mask | None) -> Case:
    """Gather all that the rules look at. ``changed``: see ``find_candidates``."""
    with ThreadPoolExecutor(1) as beside:  # one looks at frames, one at mappings
        looks = beside.submit(look_at_frames, snapshot)
        of_frames = beside.submit(lambda: content_keys(snapshot.frames, looks.result().tagged))
        candidates = find_candidates(snapshot, policy, rules, changed)
        items, first = items_of_frames(candidates, len(snapshot.frames))
    keys = [of_frames.result()]
    del of_frames
    facts = frame_facts(snapshot, candidates, rules, looks.result(), items, first)
    frame = snapshot.mappings["frame_id"].to_numpy()
    contents = group_by_content(snapshot.frames, facts, frame, rules, keys.pop())
    return Case(snapshot, rules, candidates, contents, facts)

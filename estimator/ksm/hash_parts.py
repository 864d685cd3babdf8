"""The state at rest where memory does not hold the whole: part by part of the range of hashes.

What becomes of a content depends on no other content, but for two kinds: those that lie on several
frames, one of them in a huge page, since the merge of one piece splits the page for all; and those
whose fate is simulated, since the simulation goes on until all of them are at rest. Contents that
may be of these kinds are *tied*: they are left out part by part, and come last, together.

Parts go by the upper bits of what tells contents apart, so contents have the numbers that they have
without parts. What is kept of every mapping and frame is in arrays of ``Workroom.empty``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, Ints, Mask, Numbers, pieces, take
from estimator.ksm.candidates import find_candidates
from estimator.ksm.case import Case, case_of
from estimator.ksm.contents import Contents, content_keys, per_frame
from estimator.ksm.fate import (
    Fate,
    before_simulation,
    behind_roots,
    closing_roots,
    fate_of,
    first_inserted,
    solve,
)
from estimator.ksm.frames import NEVER, FrameFacts, frames_with, large_folios
from estimator.ksm.mergeable import pinned_frames
from estimator.ksm.policy import Policy
from estimator.ksm.rules import Rules
from estimator.ksm.timing import Timing, WholeTiming, timing_of
from estimator.snapshot.flags import FrameFlag, MappingFlag
from estimator.snapshot.schema import SCHEMAS
from estimator.snapshot.snapshot import Snapshot

_BUCKET_BITS = 16
_PER_FRAME = ("left", "vanished", "ksm", "node")  # of ``Fate``


@dataclass(frozen=True)
class Workroom:
    """Where a prediction is worked out that is too large for memory.

    ``empty``: makes the arrays of all mappings and frames, which count as no memory. ``fits``:
    whether a part of so many mappings and frames can be worked out in what is left. ``require``:
    raises unless it fits; with why these mappings and frames have to be in one part.
    """

    empty: Empty
    fits: Callable[[int, int], bool]
    require: Callable[[int, int, str], None]


def settle_in_parts(
    snapshot: Snapshot,
    policy: Policy,
    rules: Rules,
    changed: Mask | None,
    room: Workroom,
    through: int | None = None,
) -> tuple[Case, Fate, Timing]:
    """What ``case_of``, ``solve`` and ``fate_of`` give. ``through``: as for ``solve``.

    Raises as ``Workroom.require`` where a part, or what is tied, can't be made small enough.
    """
    info = snapshot.info | {"damon_awake": _damon_awake(snapshot)}
    whole = _Whole(replace(snapshot, info=info), policy, rules, changed, room)
    closing = whole.closing_roots(_parts(snapshot, room)) if _hides_pages(snapshot, rules) else {}
    tied = np.zeros(len(snapshot.frames), np.bool_)
    for frames in _parts(snapshot, room):
        rows = whole.rows_of(frames)
        case = whole.case(frames, rows)
        whole.note_case(case, frames, rows)
        apart = _in_huge_pages(case)
        aside = per_frame(apart, case.contents)
        if (aside & case.facts.zero).any():  # one rule holds for all of them, on each NUMA node
            aside = aside | (case.facts.zero & case.facts.known)
        alone = replace(case, facts=_without(case.facts, aside))
        solved, waiting, _ = before_simulation(
            alone, in_time=through is not None, hidden=_hidden(alone, closing, rows)
        )
        apart[case.contents.of_frame[waiting | aside]] = True
        whole.note_fate(case, fate_of(alone, solved), frames, rows)
        whole.note_timing(case, timing_of(solved), frames, rows)
        tied[frames[per_frame(apart, case.contents)]] = True
    if tied.any():
        frames = np.flatnonzero(tied).astype(np.int32)
        rows = whole.rows_of(frames)
        room.require(len(rows), len(frames), "contents in huge pages, or simulated, go together")
        case = whole.case(frames, rows)
        solved = solve(case, through, _hidden(case, closing, rows))
        whole.note_fate(case, fate_of(case, solved), frames, rows)
        whole.note_timing(case, timing_of(solved), frames, rows)
    return replace(whole.whole_case(), snapshot=snapshot), whole.fate(), whole.timing.timing()


def _hides_pages(snapshot: Snapshot, rules: Rules) -> bool:
    """Whether ksmd may come across pages that it can't see through, see ``hidden_roots``."""
    if not rules.prot_none_blocks_tree:
        return False
    flags = snapshot.mappings["flags"].to_numpy()
    return any((flags[piece] & MappingFlag.PROT_NONE).any() for piece in pieces(len(flags)))


def _hidden(case: Case, closing: Mapping[int, int], rows: Numbers) -> tuple[Ints, Mask]:
    """``hidden_roots`` for the part ``case``, of these ``rows``. ``closing``: of the whole."""
    here = np.isin(rows, list(closing.values()))
    return np.flatnonzero(here), behind_roots(case, closing)


def _damon_awake(snapshot: Snapshot) -> int:
    """``info["damon_awake"]``, 0 where more frames are held than its threads can hold."""
    awake = int(snapshot.info.get("damon_awake", 0))
    if not awake:
        return 0
    held, without = (pinned_frames(snapshot.frames, number) for number in (awake, 0))
    return 0 if np.array_equal(held, without) else awake


def _parts(snapshot: Snapshot, room: Workroom) -> Iterator[Numbers]:
    """The frames (i32, ascending) of one part after the other: of as few as ``room`` allows."""
    bucket = _buckets(snapshot.frames, room.empty)
    frames, mappings = (np.zeros(1 << _BUCKET_BITS, np.int64) for _ in range(2))
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    for piece in pieces(len(bucket)):
        frames += np.bincount(bucket[piece], minlength=len(frames))
    for piece in pieces(len(frame_of_row)):
        mappings += np.bincount(bucket[frame_of_row[piece]], minlength=len(mappings))
    for buckets in _ranges(mappings, frames, room):
        yield _between(bucket, buckets)


def _ranges(mappings: Ints, frames: Ints, room: Workroom) -> Iterator[slice]:
    """Ranges of buckets, with as much in each as fits, by what each bucket has."""
    sums = [[0, *np.cumsum(numbers).tolist()] for numbers in (mappings, frames)]

    def total(begin: int, end: int) -> tuple[int, int]:
        of_mappings, of_frames = (upto[end] - upto[begin] for upto in sums)
        return of_mappings, of_frames

    begin = 0
    for number in np.flatnonzero(frames).tolist():
        if room.fits(*total(begin, number + 1)):
            continue
        if any(total(begin, number)):
            yield slice(begin, number)
            begin = number
        room.require(*total(number, number + 1), "equal pages go together")
    yield slice(begin, len(frames))


def _buckets(frames: pd.DataFrame, empty: Empty) -> npt.NDArray[np.uint16]:
    """The upper bits of ``content_keys`` per frame; what is not known is spread over all."""
    keys = content_keys(frames, frames_with(frames, FrameFlag.MTE), empty)
    unknown = frames["unknown"].to_numpy()
    bucket = empty(len(frames), np.uint16)
    for piece in pieces(len(frames)):
        bucket[piece] = keys[piece] >> np.uint64(64 - _BUCKET_BITS)
        nobody_knows = np.flatnonzero(unknown[piece])
        bucket[piece][nobody_knows] = (nobody_knows + piece.start) % (1 << _BUCKET_BITS)
    return bucket


def _between(bucket: npt.NDArray[np.uint16], buckets: slice) -> Numbers:
    found = [np.zeros(0, np.int32)]
    for piece in pieces(len(bucket)):
        inside = (bucket[piece] >= buckets.start) & (bucket[piece] < buckets.stop)
        found.append((np.flatnonzero(inside) + piece.start).astype(np.int32))
    return np.concatenate(found)


def _in_huge_pages(case: Case) -> Mask:
    """Bool per content: it can split a huge page, or lose mappings when another one does."""
    facts, contents = case.facts, case.contents
    in_folio, more = (np.zeros(len(contents), np.bool_) for _ in range(2))
    in_folio[contents.of_frame[facts.known & (facts.folio >= 0)]] = True
    more[contents.of_frame[facts.known & (facts.zero | facts.ksm | facts.node)]] = True
    return in_folio & (more | (np.diff(contents.starts) > 1))


def _without(facts: FrameFacts, frames: Mask) -> FrameFacts:
    """``facts`` as if ``frames`` (bool) had no items."""
    if not frames.any():
        return facts
    items, first = (np.where(frames, no, a) for no, a in ((0, facts.items), (NEVER, facts.first)))
    on_node, opaque = np.where(frames, 0, facts.on_node), facts.opaque & ~frames
    maybe_blocked = facts.maybe_blocked & ~frames
    return replace(
        facts,
        items=items,
        first=first.astype(np.int32),
        on_node=on_node,
        opaque=opaque,
        maybe_blocked=maybe_blocked,
    )


class _Whole:
    """What is put together, part by part."""

    def __init__(
        self,
        snapshot: Snapshot,
        policy: Policy,
        rules: Rules,
        changed: Mask | None,
        room: Workroom,
    ) -> None:
        self._snapshot, self._policy, self._rules = snapshot, policy, rules
        self._changed, self._empty = changed, room.empty
        self._rows, self._frames = len(snapshot.mappings), len(snapshot.frames)
        self._folio = large_folios(snapshot.frames)
        self._number = room.empty(self._frames, np.int32)
        self._facts: dict[str, npt.NDArray[Any]] = {}
        self._of_frame = room.empty(self._frames, np.int32)
        self._order = room.empty(self._frames, np.int32)
        self._starts = room.empty(self._frames + 1, np.int32)
        self._starts[0] = self._contents = self._known = 0
        self._outcome = room.empty(self._rows, np.uint8)
        self._stable_frame = room.empty(self._rows, np.int32)
        self._fate: dict[str, npt.NDArray[Any]] = {}
        folios = int(self._folio.max(initial=-1)) + 1
        self._split = np.zeros(folios, np.bool_)
        self.timing = WholeTiming(self._frames, folios, room.empty)
        self._copied, self._simulated = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        self._scans = self._kept_apart = 0

    def rows_of(self, frames: Numbers) -> Numbers:
        """The mappings of ``frames``, i32, ascending. Numbers these from 0 for ``case``."""
        self._number[:] = -1
        self._number[frames] = np.arange(len(frames), dtype=np.int32)
        frame_of_row = self._snapshot.mappings["frame_id"].to_numpy()
        found = [np.zeros(0, np.int32)]
        for piece in pieces(self._rows):
            inside = np.flatnonzero(self._number[frame_of_row[piece]] >= 0)
            found.append((inside + piece.start).astype(np.int32))
        return np.concatenate(found)

    def case(self, frames: Numbers, rows: Numbers) -> Case:
        """The case of these frames and mappings alone."""
        snapshot, number = self._snapshot, self._number
        nodes, mappings = snapshot.stable_nodes, snapshot.mappings
        node_frame = nodes["frame_id"].to_numpy(np.int64, na_value=-1)
        here = node_frame >= 0
        here[here] = number[node_frame[here]] >= 0
        part = replace(
            snapshot,
            mappings=pd.DataFrame(
                {
                    name: take(mappings[name].to_numpy(), rows)
                    for name in ("vma_id", "flags", "visits")
                    if name in mappings
                }
                | {
                    "frame_id": take(number, take(mappings["frame_id"].to_numpy(), rows)).view(
                        np.uint32
                    )
                }
            ),
            frames=pd.DataFrame(
                {name: snapshot.frames[name].array.take(frames) for name in SCHEMAS["frames"].names}
            ),
            stable_nodes=nodes[here].assign(
                frame_id=pd.array(number[node_frame[here]], dtype="UInt32")
            ),
        )
        changed = None if self._changed is None else self._changed[rows]
        return case_of(part, self._policy, self._rules, changed)

    def closing_roots(self, parts: Iterable[Numbers]) -> dict[int, int]:
        """See ``fate.closing_roots``; of the whole, found part by part."""
        first: dict[int, int] = {}
        for frames in parts:
            rows = self.rows_of(frames)
            for tree, row in first_inserted(self.case(frames, rows)).items():
                first[tree] = min(int(rows[row]), first.get(tree, NEVER))
        flags = self._snapshot.mappings["flags"].to_numpy()
        return closing_roots(flags, first)

    def note_case(self, case: Case, frames: Numbers, rows: Numbers) -> None:
        """Keep what ``case`` knows of its ``frames`` and of their contents."""
        met, first = case.facts.first != NEVER, case.facts.first.copy()
        first[met] = rows[first[met]]
        facts = replace(case.facts, first=first)
        for field in fields(FrameFacts):
            values = getattr(facts, field.name)
            if field.name not in self._facts:
                dtype = np.bool_ if values.dtype == np.bool_ else np.int32
                self._facts[field.name] = self._empty(self._frames, dtype)
            self._facts[field.name][frames] = values
        contents = case.contents
        number = np.where(contents.of_frame < 0, -1, contents.of_frame + self._contents)
        self._of_frame[frames] = number
        known, count = len(contents.order), len(contents)
        self._order[self._known : self._known + known] = frames[contents.order]
        self._starts[self._contents : self._contents + count + 1] = contents.starts + self._known
        self._known, self._contents = self._known + known, self._contents + count

    def note_fate(self, case: Case, fate: Fate, frames: Numbers, rows: Numbers) -> None:
        """Keep what becomes of ``frames`` and their ``rows``, in place of what was there."""
        merged = fate.stable_frame >= 0
        self._outcome[rows] = fate.outcome
        self._stable_frame[rows] = -1
        self._stable_frame[rows[merged]] = frames[fate.stable_frame[merged]]
        for name in _PER_FRAME:
            values = getattr(fate, name)
            if name not in self._fate:
                self._fate[name] = self._empty(self._frames, values.dtype)
            self._fate[name][frames] = values
        self._split[self._folios_of(case, frames)[fate.split]] = True
        self._copied.append(rows[fate.copied].astype(np.int64))
        self._simulated.append(rows[fate.simulated].astype(np.int64))
        self._scans = max(self._scans, fate.scans)
        self._kept_apart += fate.kept_apart

    def note_timing(self, case: Case, timing: Timing, frames: Numbers, rows: Numbers) -> None:
        """Keep when it does."""
        self.timing.note(timing, rows, frames, self._folios_of(case, frames))

    def _folios_of(self, case: Case, frames: Numbers) -> Ints:
        """Which of all large folios those of ``case`` are, i64."""
        large = np.flatnonzero(case.facts.folio >= 0)
        folio = case.facts.folio[large]
        found = np.zeros(int(folio.max(initial=-1)) + 1, np.int64)
        found[folio] = self._folio[frames[large]]
        return found

    def whole_case(self) -> Case:
        """All that ``note_case`` was given."""
        snapshot = self._snapshot
        candidates = find_candidates(
            snapshot, self._policy, self._rules, self._changed, self._empty
        )
        facts = FrameFacts(**(self._facts | {"folio": self._folio}))
        starts = self._starts[: self._contents + 1]
        contents = Contents(self._of_frame, self._order[: self._known], starts, self._contents)
        return Case(snapshot, self._rules, candidates, contents, facts)

    def fate(self) -> Fate:
        """All that ``note_fate`` was given."""
        return Fate(
            outcome=self._outcome,
            stable_frame=self._stable_frame,
            copied=np.concatenate(self._copied),
            split=self._split,
            scans=self._scans,
            simulated=np.concatenate(self._simulated),
            kept_apart=self._kept_apart,
            **self._fate,
        )

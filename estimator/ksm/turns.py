"""Which equal pages ever meet in the unstable tree, where smart_scan has put them out of step.

should_skip_rmap_item() in mm/ksm.c lets ksmd look at an rmap_item at its visits 1, 2, 3, 4, 6, 9,
14 and every ninth one from then on (``is_processed``), counted from the scan that made it. The tree
is new in every full scan. So of two pages that came in different scans, both in no stable node, the
one may be skipped whenever the other is in the tree, for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from estimator.arrays import Bytes, Ints, Mask, Numbers, pieces
from estimator.ksm.case import Case
from estimator.ksm.frames import items_with
from estimator.ksm.meetings import Kind
from estimator.ksm.readings import is_processed
from estimator.snapshot.flags import AHEAD, OLD_VISITS, SKIPPING_SCANS, MappingFlag
from estimator.snapshot.stored_table import rows_at

_ALL_OLD = OLD_VISITS + SKIPPING_SCANS  # scans, after which all that came is as old as can be
_SEARCHED = 2  # the visit that looks for a partner first: the one before stores the checksum

Bits = npt.NDArray[np.unsignedinteger]


def visits_of(case: Case, rows: Ints | Numbers) -> Bytes:
    """``mappings.visits`` of ``rows``; 0 where they don't count (``Rules.knows_visits``)."""
    if not case.rules.knows_visits:
        return np.zeros(len(rows), np.uint8)
    (visits,) = rows_at(case.snapshot.mappings, ("visits",), rows)
    return visits


@dataclass(frozen=True)
class Turns:
    """Who is looked at in which scans.

    ``values``: the different ``mappings.visits`` of the items that are on no stable node, ascending
    (u8); each has a bit, by its place. ``of_frame``, ``of_content``: bits of the items of each.
    """

    values: Bytes
    of_frame: Bits
    of_content: Bits

    @cached_property
    def out_of_step(self) -> Mask:
        """Bool per content: its items are not all looked at in the same scans."""
        one = self.of_content.dtype.type(1)
        found: Mask = (self.of_content & (self.of_content - one)) != 0
        return found

    @cached_property
    def old(self) -> Mask:
        """Bool per content: full scans have come to some of its items."""
        new = self.of_content.dtype.type(self.values[0] == 0)  # the lowest bit, if it is of those
        found: Mask = (self.of_content & ~new) != 0
        return found

    def meet(self, bits: int) -> bool:
        """Whether two items ever meet that have different ones of the ``bits``."""
        values = self._values(bits)
        return any(_meeting(a, b) is not None for a, b in combinations(values, 2))

    def at_rest_in(self, bits: int) -> int:
        """The full scan in which all items with these ``bits`` have joined a stable node, that two
        of them made.
        """
        values = self._values(bits)
        pairs = [*combinations(values, 2)] or [(value, value) for value in values]
        met = [scan for pair in pairs if (scan := _meeting(*pair)) is not None]
        first = min(met, default=1)
        return max(next(s for s in _scans(first) if _looks_at(value, s)) for value in values)

    def _values(self, bits: int) -> list[int]:
        return [int(value) for place, value in enumerate(self.values) if bits >> place & 1]


def _scans(first: int) -> range:
    return range(first, first + _ALL_OLD + SKIPPING_SCANS)


def _looks_at(value: int, scan: int) -> bool:
    """Whether ksmd looks for a partner of an item of these ``visits`` in full scan ``scan``.

    Scan 0 is what is left of the one under way, 1 the next.
    """
    behind = not value & AHEAD
    visit = (value & ~AHEAD) + scan + (not behind)
    return not (behind and scan == 0) and visit >= _SEARCHED and is_processed(visit)


def _in_tree(value: int, scan: int) -> bool:
    """The same, and in the scan under way the tree may have what that has come to already."""
    visits = value & ~AHEAD
    if scan == 0 and not value & AHEAD:
        return visits >= _SEARCHED and is_processed(visits)
    return _looks_at(value, scan)


def _meeting(one: int, other: int) -> int | None:
    """The scan in which two items of these visits meet first; None: they never do."""
    for scan in _scans(0):
        met = _in_tree(one, scan) and _in_tree(other, scan)
        if met and (scan or (one | other) & AHEAD):
            return scan
    return None


def turns_of(case: Case) -> Turns | None:
    """None where smart_scan does not tell items apart."""
    if not case.rules.knows_visits:
        return None
    counts = np.zeros(256, np.int64)
    for _, _, visits in _unmerged(case):
        counts += np.bincount(visits, minlength=256)
    values = np.flatnonzero(counts).astype(np.uint8)
    if not values.any():
        return None
    bit = _bit_of_each(values)
    of_frame = np.zeros(len(case.facts.items), bit.dtype)
    for frame, _, visits in _unmerged(case):
        np.bitwise_or.at(of_frame, frame, bit[visits])
    of_content = np.zeros(len(case.contents), bit.dtype)
    for piece in pieces(len(of_frame)):
        content = case.contents.of_frame[piece]
        there = (content >= 0) & case.facts.known[piece]
        np.bitwise_or.at(of_content, content[there], of_frame[piece][there])
    return Turns(values, of_frame, of_content)


def _bit_of_each(values: Bytes) -> Bits:
    """By value; in as few bytes as there are bits for all."""
    bit = np.zeros(256, np.min_scalar_type((1 << len(values)) - 1))
    bit[values] = np.left_shift(bit.dtype.type(1), np.arange(len(values), dtype=bit.dtype))
    return bit


def _unmerged(case: Case) -> Iterator[tuple[npt.NDArray[np.uint32], Numbers, Bytes]]:
    """Frame_id, row and visits of every item that is on no stable node, a piece at a time."""
    node = case.facts.node
    for frame, row, (flags, visits) in items_with(
        case.snapshot, case.candidates, "flags", "visits"
    ):
        apart = np.flatnonzero(((flags & MappingFlag.MERGED) == 0) | ~node[frame])
        yield frame[apart], row[apart], visits[apart]


def take_turns(case: Case, turns: Turns, kind: npt.NDArray[np.uint8]) -> None:
    """Set the ``kind`` of the contents (u8 each) whose items are out of step.

    ``Kind.APART`` where none ever meets another; left as it is where all merge all the same, and
    ``Kind.OPEN`` where it depends on who comes first.
    """
    out_of_step = turns.out_of_step
    kind[out_of_step & np.isin(kind, (Kind.CROWDED, Kind.FIRST_BLOCKED))] = Kind.OPEN
    if case.rules.break_cow_forgets:  # who is as new again is out of step with who was not
        kind[turns.old & (kind == Kind.FIRST_BLOCKED)] = Kind.OPEN
    fits = np.flatnonzero(out_of_step & (kind == Kind.FITS)).astype(np.int32)
    meet: dict[int, bool] = {}
    for piece in pieces(len(fits)):
        _meet_or_not(case, turns, kind, fits[piece], meet)


def _meet_or_not(
    case: Case,
    turns: Turns,
    kind: npt.NDArray[np.uint8],
    fits: Numbers,
    meet: dict[int, bool],
) -> None:
    """For some contents that would merge if all were in step; ``meet`` keeps ``Turns.meet``."""
    facts = case.facts
    frame, begin, _ = case.contents.frames_of(fits)
    some = facts.items[frame] > 0
    strange = some & (facts.blocked[frame] | (facts.mapcount[frame] > facts.items[frame]))
    bits = turns.of_content[fits]
    several = np.bitwise_count(turns.of_frame[frame])
    on_frames = np.add.reduceat(np.where(some, several, 0), begin, dtype=np.int64)
    shared = np.logical_or.reduceat(some & (several > 1), begin)
    met = on_frames > np.bitwise_count(bits)  # two frames are looked at in the same scans
    patterns, number = np.unique(bits, return_inverse=True)
    for pattern in patterns.tolist():
        if pattern not in meet:
            meet[pattern] = turns.meet(pattern)
    pairs = np.array([meet[pattern] for pattern in patterns.tolist()], np.bool_)[number]
    open_ = np.logical_or.reduceat(strange, begin) | (~met & pairs & shared)
    kind[fits[~met & ~pairs]] = Kind.APART
    kind[fits[open_]] = Kind.OPEN


def first_of_turns(case: Case, turns: Turns, chosen: Mask) -> Numbers:
    """The row of the first item of each turn of the contents ``chosen`` (bool each)."""
    bit, seen = _bit_of_each(turns.values), np.zeros_like(turns.of_content)
    found = [np.zeros(0, np.int32)]
    for frame, row, visits in _unmerged(case):
        content, bits = case.contents.of_frame[frame], bit[visits]
        here = np.flatnonzero((content >= 0) & case.facts.known[frame])
        here = here[chosen[content[here]]]
        new = here[(seen[content[here]] & bits[here]) == 0]
        keys = content[new].astype(np.int64) << 8 | visits[new]
        _, first = np.unique(keys, return_index=True)
        new = new[np.sort(first)]
        np.bitwise_or.at(seen, content[new], bits[new])
        found.append(row[new])
    return np.concatenate(found)


def scans_of_turns(turns: Turns, kind: npt.NDArray[np.uint8]) -> int:
    """Full scans until those contents are at rest that merge as if all were in step."""
    patterns: set[int] = set()
    for piece in pieces(len(kind)):
        merging = np.isin(kind[piece], (Kind.FITS, Kind.CROWDED, Kind.ONE_NODE))
        patterns.update(np.unique(turns.of_content[piece][merging]).tolist())
    return max((turns.at_rest_in(bits) for bits in patterns if bits), default=0)

"""The frames that become free, by the pieces of the system that have to take part for that.

Contents held by the same pieces in the same numbers behave alike and are counted as one *pattern*:
a million contents are a few thousand patterns. They are looked at in parts of some contents each
(``content_parts``); what is kept of all of them is the patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Narrow, Words, ascending, in_turn, pieces
from estimator.ksm.content_parts import rows_by_content, rows_by_frame
from estimator.ksm.credits import folio_rows
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot, vma_of, vma_starts

_CONTENT = ["content", "domain"]
_ODD = np.uint64(0x9E37_79B9_7F4A_7C15)
_MIX = (  # as in splitmix64
    (np.uint64(30), np.uint64(0xBF58_476D_1CE4_E5B9)),
    (np.uint64(27), np.uint64(0x94D0_49BB_1331_11EB)),
)


@dataclass(frozen=True)
class Patterns:
    """The frames that a prediction gives up, by content and by the pieces that map them.

    A *group*: ``frames`` frames of every content of ``pattern`` that are mapped by exactly the
    pieces of one set. Per group (i64): ``pattern``, ``frames``. Per row of group × member piece
    (i64): ``row_group``, ``row_piece``. Per pattern: ``contents`` (i64, how many behave so) and
    ``free`` (bool: becomes free without a partner, as zero pages do). The order of patterns, groups
    and members means nothing.
    """

    pattern: Ints
    frames: Ints
    row_group: Ints
    row_piece: Ints
    contents: Ints
    free: npt.NDArray[np.bool_]


def patterns(
    snapshot: Snapshot,
    prediction: Prediction,
    piece_of_vma: Ints,
    domain_of_frame: Narrow | None = None,
) -> Patterns:
    """Group the frames that ``prediction`` gives up.

    With all pieces in, ``Peeling`` saves what ``prediction`` frees. What the split of a huge page
    frees without anybody's mapping going is counted with those who have the huge page scanned, a
    copy made by break_cow() is charged to who gets it.

    Where a KSM page is mapped by somebody besides who takes part, no frame of its content is kept
    for it. It is one frame more of the content then, mapped by the pieces that make ksmd choose it
    (those of the first item of the content and of the first item on the page). Where a content
    fills several stable nodes, the pages of the others count as not given up.

    ``piece_of_vma``: i64 per row of ``snapshot.vmas``, -1 for none. ``domain_of_frame``: if given,
    per frame of ``prediction.freed``, only frames with equal values count as able to merge.
    """
    freed = prediction.freed
    holders = _Holders(piece_of_vma, vma_starts(snapshot))
    found = _Found()
    parts = rows_by_content(freed.content, freed.frame_of_row, prediction.empty)
    for part in in_turn(lambda rows: _part(prediction, rows, holders, domain_of_frame), parts):
        found.add(part)
    _add_splits_and_copies(found, prediction, holders)
    return found.patterns()


class _Holders:
    """Sets of pieces: a signature of each, by which they are told apart but for a chance of 2^-64.

    The empty set is 0.
    """

    def __init__(self, piece_of_vma: Ints, starts: Ints) -> None:
        self._piece_of_vma, self._starts = piece_of_vma, starts
        self._pieces = int(piece_of_vma.max(initial=0)) + 1
        self._names = np.random.default_rng(0).integers(
            1, 2**64, size=self._pieces, dtype=np.uint64
        )

    def pairs(self, rows: Ints, unit: Ints) -> Ints:
        """``unit`` (i64 per mapping in ``rows``) with each of its pieces once, as one number."""
        piece = self._piece_of_vma[vma_of(self._starts, rows)]
        inside = piece >= 0
        pairs: Ints = pd.unique(unit[inside] * self._pieces + piece[inside])
        return pairs

    def sets(self, pairs: Ints, units: int) -> tuple[Words, pd.DataFrame]:
        """The set of each unit, and who is in it: columns set and piece."""
        unit, piece = np.divmod(pairs, self._pieces)
        of_unit = np.zeros(units, np.uint64)
        np.add.at(of_unit, unit, self._names[piece])
        first = np.unique(of_unit, return_index=True)[1]
        is_first = np.zeros(units, np.bool_)
        is_first[first] = True
        shown = is_first[unit]
        return of_unit, pd.DataFrame({"set": of_unit[unit[shown]], "piece": piece[shown]})


class _Found:
    """What is put together, part by part; a pattern goes by its signature."""

    def __init__(self) -> None:
        none = np.zeros(0, np.int64)
        words = none.astype(np.uint64)
        self._contents = pd.DataFrame({"pattern": words, "contents": none})
        self._groups = pd.DataFrame({"pattern": words, "set": words, "frames": none})
        self._free = pd.DataFrame({"set": words, "frames": none})
        self._members = pd.DataFrame({"set": words, "piece": none})

    def add(self, part: _Part) -> None:
        """What some contents come to."""
        self.add_members(part.members)
        self.add_free(part.free)
        self._contents = _sums([self._contents, part.contents], "pattern")
        self._groups = pd.concat([self._groups, part.groups]).drop_duplicates()

    def add_free(self, frames: pd.DataFrame) -> None:
        """What needs no partner: set and frames."""
        self._free = _sums([self._free, frames], "set")

    def add_members(self, members: pd.DataFrame) -> None:
        """Who is in a set: set and piece."""
        self._members = pd.concat([self._members, members]).drop_duplicates()

    def patterns(self) -> Patterns:
        """All of it; what needs no partner is one content."""
        names, contents = (self._contents[name].to_numpy() for name in ("pattern", "contents"))
        groups = pd.concat([self._groups, self._free], ignore_index=True)
        pattern = pd.Index(names).get_indexer(self._groups["pattern"])
        one = min(len(self._free), 1)
        rows = groups[["set"]].assign(group=np.arange(len(groups))).merge(self._members, on="set")
        return Patterns(
            pattern=np.append(pattern, np.full(len(self._free), len(names))).astype(np.int64),
            frames=groups["frames"].to_numpy(),
            row_group=rows["group"].to_numpy(),
            row_piece=rows["piece"].to_numpy(),
            contents=np.append(contents, np.ones(one, np.int64)),
            free=np.append(np.zeros(len(names), np.bool_), np.ones(one, np.bool_)),
        )


def _sums(tables: list[pd.DataFrame], key: str) -> pd.DataFrame:
    """The rows of ``tables``, those of one ``key`` added up."""
    return pd.concat(tables).groupby(key, sort=False, as_index=False).sum()


@dataclass(frozen=True)
class _Part:
    """What some contents come to.

    ``members``: who is in a set: set and piece. ``free``: what needs no partner: set and frames.
    ``contents``: pattern, and how many. ``groups``: pattern, set and frames.
    """

    members: pd.DataFrame
    free: pd.DataFrame
    contents: pd.DataFrame
    groups: pd.DataFrame


def _part(
    prediction: Prediction, rows: Ints, holders: _Holders, domain_of_frame: Narrow | None
) -> _Part:
    """What all mappings of some contents (``rows``, ascending) come to."""
    found = [
        _grouped(prediction, units, holders, domain_of_frame)
        for units in _units(prediction, rows, domain_of_frame)
    ]
    groups = found[0].groups
    if len(found) > 1:
        groups = pd.concat([each.groups for each in found])
        groups = groups.groupby([*_CONTENT, "set"], sort=False, as_index=False).sum()
    number = _numbers(groups, domain_of_frame)
    sets, frames = (groups[name].to_numpy() for name in ("set", "frames"))
    signature = np.zeros(int(number.max(initial=-1)) + 1, np.uint64)
    np.add.at(signature, number, _names(sets, frames))
    pattern, patterns = pd.factorize(signature)
    is_first = np.zeros(len(signature), np.bool_)
    is_first[np.unique(pattern, return_index=True)[1]] = True
    shown = is_first[number]
    return _Part(
        pd.concat([each.members for each in found]),
        pd.concat([each.free for each in found]),
        pd.DataFrame({"pattern": patterns, "contents": np.bincount(pattern)}),
        pd.DataFrame(
            {
                "pattern": signature[number[shown]],
                "set": sets[shown],
                "frames": frames[shown],
            }
        ),
    )


@dataclass(frozen=True)
class _Units:
    """``frames`` (ascending), and ``rows`` whose pieces give them up, each one the ``unit``-th."""

    frames: Ints
    rows: Ints
    unit: Ints


def _units(prediction: Prediction, rows: Ints, domain_of_frame: Narrow | None) -> Iterator[_Units]:
    """The frames given up of some contents (``rows``: all of their mappings), some at a time.

    And at last what others keep of them.
    """
    credits, frame_of_row = prediction.credits, prediction.freed.frame_of_row
    surplus, outside = _kept(prediction, rows, domain_of_frame)
    for some in rows_by_frame(rows, frame_of_row):
        frame = frame_of_row[some].astype(np.int64)
        given_up = ascending(frame[credits.given_up[frame]])
        frames = given_up[~np.isin(given_up, surplus)]
        place = np.searchsorted(frames, frame)
        inside = np.append(frames, -1)[place] == frame
        yield _Units(frames, some[inside], place[inside])
    if len(outside):
        page, row = _first_items(prediction, rows, outside)
        yield _Units(outside, row, np.searchsorted(outside, page))


def _first_items(prediction: Prediction, rows: Ints, pages: Ints) -> tuple[Ints, Ints]:
    """Of each of ``pages`` the first of ``rows`` that ends on it, and the first that is on it.

    The page of each, and the row.
    """
    ending, there = list[pd.DataFrame](), list[pd.DataFrame]()
    for piece in pieces(len(rows)):
        here = rows[piece]
        node = prediction.stable_node[here]
        own = node == prediction.freed.frame_of_row[here]
        items = pd.DataFrame({"page": node, "row": here})[np.isin(node, pages)]
        ending.append(items.drop_duplicates("page"))
        there.append(items[own[items.index]].drop_duplicates("page"))
    first = pd.concat([pd.concat(each).drop_duplicates("page") for each in (ending, there)])
    return first["page"].to_numpy(np.int64), first["row"].to_numpy(np.int64)


@dataclass(frozen=True)
class _Grouped:
    """What some frames come to. ``members``, ``free``: as in ``_Part``.

    ``groups``: the columns ``_CONTENT``, set, and how many frames of that content have it.
    """

    members: pd.DataFrame
    free: pd.DataFrame
    groups: pd.DataFrame


def _grouped(
    prediction: Prediction, units: _Units, holders: _Holders, domain_of_frame: Narrow | None
) -> _Grouped:
    frames = units.frames
    set_of_unit, members = holders.sets(holders.pairs(units.rows, units.unit), len(frames))
    free = prediction.credits.stable_node[frames] < 0
    table = _contents(prediction, frames[~free], domain_of_frame).assign(set=set_of_unit[~free])
    of_unit, sets = pd.factorize(table["set"].to_numpy())
    keys = _numbers(table, domain_of_frame) * len(sets) + of_unit
    group, distinct = pd.factorize(keys)
    first = np.empty(len(distinct), np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]
    groups = table.take(first).assign(frames=np.bincount(group))
    return _Grouped(members, pd.DataFrame({"set": set_of_unit[free], "frames": 1}), groups)


def _names(sets: Words, frames: Ints) -> Words:
    """A number for each pair of set and frames, whose sums tell contents apart as sets are."""
    word = sets + frames.astype(np.uint64) * _ODD
    for shift, factor in _MIX:
        word = (word ^ (word >> shift)) * factor
    mixed: Words = word ^ (word >> np.uint64(31))
    return mixed


def _kept(prediction: Prediction, rows: Ints, domain_of_frame: Narrow | None) -> tuple[Ints, Ints]:
    """KSM pages besides the one that a content keeps of the frames given up, by content and domain.

    Those that stay in excess of one, and one that somebody outside keeps for each content of which
    none stays; frames.
    """
    found, frame_of_row = prediction.credits, prediction.freed.frame_of_row
    nodes = []
    for some in rows_by_frame(rows, frame_of_row):
        frame = frame_of_row.take(some)
        node = found.stable_node.take(frame[found.given_up.take(frame)])
        nodes.append(ascending(node[node >= 0]))
    used = nodes[0] if len(nodes) == 1 else ascending(np.concatenate(nodes))
    stays = found.stays(used)
    stay, others = used[stays], used[~stays]
    pages = _contents(prediction, np.append(stay, others), domain_of_frame)
    again = pages.duplicated().to_numpy()
    return stay[again[: len(stay)]], others[~again[len(stay) :]]


def _contents(prediction: Prediction, frames: Ints, domain_of_frame: Narrow | None) -> pd.DataFrame:
    """The columns ``_CONTENT`` of ``frames``."""
    domain = 0 if domain_of_frame is None else domain_of_frame[frames]
    return pd.DataFrame({"content": prediction.freed.content[frames], "domain": domain})


def _numbers(table: pd.DataFrame, domain_of_frame: Narrow | None) -> Ints:
    """A number from 0 for each pair of content and domain in the columns ``_CONTENT``."""
    if domain_of_frame is None:
        return np.asarray(pd.factorize(table["content"].to_numpy())[0], np.int64)
    return np.asarray(table.groupby(_CONTENT, sort=False).ngroup(), np.int64)


def _add_splits_and_copies(found: _Found, prediction: Prediction, holders: _Holders) -> None:
    """Add what the splits of huge pages free of themselves, and what break_cow() takes."""
    freed, of_folio = prediction.freed, prediction.credits.of_folio
    folios = np.flatnonzero(of_folio)
    pairs = [np.zeros(0, np.int64)]
    if len(folios):
        place = np.cumsum(of_folio > 0) - 1
        for rows, folio in folio_rows(freed, prediction.is_scanned, of_folio > 0):
            pairs.append(holders.pairs(rows, place[folio]))
    copies = np.arange(len(freed.copied))
    pairs.append(holders.pairs(freed.copied, len(folios) + copies))
    set_of_unit, members = holders.sets(pd.unique(np.concatenate(pairs)), len(folios) + len(copies))
    found.add_members(members)
    number = np.append(of_folio[folios], -np.ones(len(copies), np.int64))
    found.add_free(pd.DataFrame({"set": set_of_unit, "frames": number}))

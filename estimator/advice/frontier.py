"""Saved memory against pages scanned: which pieces of the system to opt in, best first.

The value of opting in A depends on B: of two services with the same data neither saves anything
alone. So nothing is added one by one. All pieces start opted in and the one whose leaving costs
the least saving per page scanned leaves, again and again (peeling, as for a densest subgraph);
read backwards, that is the order in which to opt in. Each step uses the exact loss at that moment.

Contents held by the same pieces in the same numbers behave alike and are counted as one
*pattern*: a million contents are a few thousand patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Numbers
from estimator.ksm.credits import folio_rows
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Patterns:
    """The frames that a prediction gives up, by content and by the pieces that map them.

    A *group*: ``frames`` frames of every content of ``pattern`` that are mapped by exactly the
    pieces of one set. Per group (i64): ``pattern``, ``frames``. Per row of group × member piece
    (i64): ``row_group``, ``row_piece``. Per pattern: ``contents`` (i64, how many behave so) and
    ``free`` (bool: becomes free without a partner, as zero pages do).
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
    domain_of_frame: npt.NDArray[np.uint64] | None = None,
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
    found, freed = prediction.credits, prediction.freed
    domain = np.zeros(len(freed.gone), np.uint64) if domain_of_frame is None else domain_of_frame
    surplus, kept_outside = _kept(prediction, domain)
    of_content = found.given_up & ~surplus
    rows, unit = _rows_of(prediction, of_content, kept_outside, found.of_folio > 0)
    frames, folios = np.flatnonzero(of_content), np.flatnonzero(found.of_folio)
    frames = np.append(frames, kept_outside)
    alone = len(folios) + len(freed.copied)
    piece = piece_of_vma[snapshot.mappings["vma_id"].to_numpy()[rows]]
    piece_sets, member_set, member_piece = _piece_sets(
        len(frames) + alone, unit[piece >= 0], piece[piece >= 0]
    )

    free = np.append(found.stable_node[frames] < 0, np.ones(alone, np.bool_))
    content = np.append(freed.content[frames], np.full(alone, -1, np.int32))
    domain = np.append(domain[frames], np.zeros(alone, np.uint64))
    content, domain = np.where(free, -1, content), np.where(free, np.uint64(0), domain)
    contents_of = _numbered(content, domain if domain_of_frame is not None else None)
    ones = np.ones(len(frames), np.int64)
    number = np.concatenate([ones, found.of_folio[folios], -np.ones_like(freed.copied)])
    sets = int(piece_sets.max(initial=-1)) + 1
    group, keys = pd.factorize(contents_of * sets + piece_sets)
    summed = np.zeros(len(keys), np.int64)
    np.add.at(summed, group, number)
    groups = pd.DataFrame({"content": keys // sets, "set": keys % sets, "frames": summed})

    least = int(summed.min(initial=0))
    span = int(summed.max(initial=0)) - least + 1
    kind, kinds = pd.factorize(groups["set"].to_numpy() * span + summed - least)
    numbers = _random_names(len(kinds))
    signature = np.zeros(int(contents_of.max(initial=-1)) + 1, np.uint64)
    np.add.at(signature, groups["content"].to_numpy(), numbers[kind])
    free_of = np.zeros(len(signature), np.bool_)
    free_of[contents_of] = free
    signature[free_of] = 0  # all free frames are one content, hence one pattern

    pattern_of, unique = pd.factorize(signature)
    contents = np.bincount(pattern_of, minlength=len(unique))
    groups["pattern"] = pattern_of[groups["content"].to_numpy()]
    representative = groups.drop_duplicates("pattern")["content"]
    groups = groups[groups["content"].isin(representative)].reset_index(drop=True)

    first, length = _spans(member_set, sets)
    of_set = groups["set"].to_numpy()
    rows = _expand(first[of_set], length[of_set])
    return Patterns(
        pattern=groups["pattern"].to_numpy(),
        frames=groups["frames"].to_numpy(),
        row_group=np.repeat(np.arange(len(groups)), length[of_set]),
        row_piece=member_piece[rows],
        contents=contents,
        free=np.asarray(unique == 0),
    )


def _numbered(content: Numbers, domain: npt.NDArray[np.uint64] | None) -> Ints:
    """A number from 0 for each pair of content and domain."""
    if domain is None:
        return np.asarray(pd.factorize(content)[0], np.int64)
    keys = pd.DataFrame({"content": content, "domain": domain})
    return np.asarray(keys.groupby(["content", "domain"], sort=False).ngroup(), np.int64)


def _kept(
    prediction: Prediction, domain: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.bool_], Ints]:
    """KSM pages besides the one that a content keeps of the frames given up, by content and domain.

    Those that stay in excess of one (bool per frame), and one that somebody outside keeps for each
    content of which none stays (frames).
    """
    found = prediction.credits
    used = np.zeros(len(domain), np.bool_)
    used[found.stable_node[found.given_up & (found.stable_node >= 0)]] = True
    stay, others = np.flatnonzero(used & found.stays), np.flatnonzero(used & ~found.stays)
    pages = np.append(stay, others)
    keys = pd.DataFrame({"content": prediction.freed.content[pages], "domain": domain[pages]})
    again = keys.duplicated().to_numpy()
    surplus = np.zeros(len(domain), np.bool_)
    surplus[stay[again[: len(stay)]]] = True
    return surplus, others[~again[len(stay) :]]


def _rows_of(
    prediction: Prediction,
    frames: npt.NDArray[np.bool_],
    kept_outside: Ints,
    folios: npt.NDArray[np.bool_],
) -> tuple[Ints, Ints]:
    """The mappings that what is freed depends on, and the number of what each decides on.

    Numbered are ``frames`` (bool per frame), after them KSM pages ``kept_outside`` (frames),
    ``folios`` (bool per large folio), and copies.
    """
    freed, node = prediction.freed, prediction.stable_node
    number = int(np.count_nonzero(frames))
    place = np.full(len(frames), -1, np.int64)
    place[frames] = np.arange(number)
    where = place[freed.frame_of_row]
    rows = np.flatnonzero(where >= 0)
    parts = [(rows, where[rows])]
    if len(kept_outside):
        place[:] = -1
        place[kept_outside] = number + np.arange(len(kept_outside))
        merged = np.flatnonzero(node >= 0)
        merged = merged[place[node[merged]] >= 0]
        for items in (merged, merged[node[merged] == freed.frame_of_row[merged]]):
            page, first = np.unique(node[items], return_index=True)
            parts.append((items[first], place[page]))
    number += len(kept_outside)
    if folios.any():
        found = folio_rows(freed, prediction.scanned, folios)
        more, folio = (np.concatenate(part) for part in zip(*found, strict=True))
        parts.append((more, number + (np.cumsum(folios) - 1)[folio]))
    number += int(np.count_nonzero(folios))
    parts.append((freed.copied, number + np.arange(len(freed.copied))))
    every_row, unit = (np.concatenate(part) for part in zip(*parts, strict=True))
    return every_row, unit


def _piece_sets(count: int, where: Ints, piece: Ints) -> tuple[Ints, Ints, Ints]:
    """The set of pieces at each of 0..count-1: a code each, and the members by set.

    ``where``, ``piece``: pairs of them, in any order and number.
    """
    pieces = int(piece.max(initial=0)) + 1
    pairs = pd.unique(where * pieces + piece)
    frame, member = pairs // pieces, pairs % pieces
    signature = np.zeros(count, np.uint64)
    np.add.at(signature, frame, _random_names(pieces)[member])
    code, _ = pd.factorize(signature)
    _, representative = np.unique(code, return_index=True)
    chosen = np.isin(frame, representative)
    member_set = code[frame[chosen]]
    order = np.argsort(member_set, kind="stable")
    return code, member_set[order], member[chosen][order]


def _random_names(count: int) -> npt.NDArray[np.uint64]:
    """Numbers whose sums tell sets apart, but for a chance of 2**-64."""
    return np.random.default_rng(0).integers(1, 2**64, size=count, dtype=np.uint64)


def _spans(sorted_keys: Ints, count: int) -> tuple[Ints, Ints]:
    """First index and number of each key 0..count-1 in ``sorted_keys``."""
    length = np.bincount(sorted_keys, minlength=count)
    return np.cumsum(length) - length, length


def _expand(first: Ints, length: Ints) -> Ints:
    """The indices first, first+1, ... of all spans, one span after the other."""
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    indices: Ints = np.arange(total) + np.repeat(first - (ends - length), length)
    return indices


class Peeling:
    """The pieces still opted in, and what each one's leaving would cost.

    ``saved_pages``: frames saved by those still in. ``loss_pages``: i64 per piece, how many fewer
    it would be without that piece. A frame mapped by several pieces is freed only while all of
    them are in.

    Exact with all pieces in, and for any of them where no frame is mapped by several. Otherwise
    some frames more may become free: of the first two frames of a content ksmd keeps the second,
    for those who are in, and that costs nothing if others keep it anyway. What is known of pins,
    huge pages and contents of several stable nodes is what all pieces together make of them.
    """

    def __init__(self, found: Patterns, pieces: int) -> None:
        self._found = found
        patterns = len(found.contents)
        self._weight = found.contents[found.pattern] * found.frames
        by_piece = np.argsort(found.row_piece, kind="stable")
        self._groups_of_piece = found.row_group[by_piece]
        self._piece_spans = _spans(found.row_piece[by_piece], pieces)
        self._group_spans = _spans(found.row_group, len(found.pattern))

        pattern_of_row = found.pattern[found.row_group]
        holders, self._holder_of_row = np.unique(
            pattern_of_row * pieces + found.row_piece, return_inverse=True
        )
        self._holder_pattern, self._holder_piece = holders // pieces, holders % pieces
        self._pattern_spans = _spans(self._holder_pattern, patterns)

        self._alive = np.ones(len(found.pattern), np.bool_)
        self._groups_left = np.bincount(found.pattern, minlength=patterns)
        self._groups_held = np.bincount(self._holder_of_row, minlength=len(holders))
        self._holds_all = np.zeros(len(holders), np.bool_)
        self.loss_pages: Ints = np.zeros(pieces, np.int64)
        np.add.at(self.loss_pages, found.row_piece, self._weight[found.row_group])
        self._update_holders(np.arange(len(holders)))
        one_kept = int(found.contents[~found.free].sum())
        self.saved_pages = int(self._weight.sum()) - one_kept

    def remove(self, piece: int) -> None:
        """Let ``piece`` leave."""
        self.saved_pages -= int(self.loss_pages[piece])
        first, length = self._piece_spans
        groups = self._groups_of_piece[first[piece] : first[piece] + length[piece]]
        groups = groups[self._alive[groups]]
        self._alive[groups] = False
        first, length = self._group_spans
        rows = _expand(first[groups], length[groups])
        found = self._found
        np.subtract.at(self.loss_pages, found.row_piece[rows], self._weight[found.row_group[rows]])
        np.subtract.at(self._groups_held, self._holder_of_row[rows], 1)
        np.subtract.at(self._groups_left, found.pattern[groups], 1)
        first, length = self._pattern_spans
        touched = np.unique(found.pattern[groups])
        self._update_holders(_expand(first[touched], length[touched]))

    def _update_holders(self, holders: Ints) -> None:
        """Whoever holds all that is left of a content loses one frame less: the one that stays."""
        pattern = self._holder_pattern[holders]
        left = self._groups_left[pattern]
        now = (self._groups_held[holders] == left) & (left > 0) & ~self._found.free[pattern]
        change = now.astype(np.int64) - self._holds_all[holders]
        np.subtract.at(
            self.loss_pages, self._holder_piece[holders], change * self._found.contents[pattern]
        )
        self._holds_all[holders] = now


def frontier(found: Patterns, scanned_pages: Ints) -> pd.DataFrame:
    """The order in which to opt pieces in, best first.

    ``scanned_pages``: i64 per piece, pages that ksmd visits for it. Columns: piece, scanned_pages
    and saved_pages of this piece and all before it, and gain_pages (what this step adds).
    """
    pieces = len(scanned_pages)
    peeling = Peeling(found, pieces)
    cost = np.maximum(scanned_pages, 1).astype(np.float64)
    inside = np.ones(pieces, np.bool_)
    steps = []
    scanned = int(scanned_pages.sum())
    for _ in range(pieces):
        ratio = np.where(inside, peeling.loss_pages / cost, np.inf)
        ties = np.flatnonzero(ratio == ratio.min())
        piece = int(ties[np.argmax(cost[ties])])
        steps.append((piece, scanned, peeling.saved_pages, int(peeling.loss_pages[piece])))
        inside[piece] = False
        peeling.remove(piece)
        scanned -= int(scanned_pages[piece])
    columns = ["piece", "scanned_pages", "saved_pages", "gain_pages"]
    return pd.DataFrame(steps[::-1], columns=columns, dtype=np.int64)

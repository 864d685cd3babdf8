"""Why equal frames stay: from all anonymous frames down to those that become free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Bytes, Empty, Mask, Numbers, Words, made, pieces
from estimator.ksm.accounting import still_there
from estimator.ksm.case import Case
from estimator.ksm.fate import Fate
from estimator.ksm.frames import live_node_frames
from estimator.ksm.prediction import Prediction
from estimator.snapshot.stored_table import in_pieces

Amounts = npt.NDArray[np.float64]

KSM_PAGE = "a further KSM page of one content (max_page_sharing)"
ZERO = "zero-filled, kept as a KSM page (use_zero_pages is off)"
WAITS = "takes part and is not merged (order of the scan, PROT_NONE, mlock)"
ELSEWHERE = "also mapped where ksmd does not merge it (fork)"
NOT_CHOSEN = "of a process that was not chosen"
NO_ITEM = "gets no rmap_item (PROT_NONE, no anon_vma)"
PINNED = "pinned, or in transit"
CHANGES = "keeps changing"


@dataclass(frozen=True)
class Losses:
    """From all anonymous frames down to those that become free; in frames.

    Of some mappings only: what fork shares counts in parts, as in PSS, and so does the one page
    that stays of several: ``freed`` is then what these mappings are credited with (``Credits``).

    ``anonymous`` - ``not_known`` - ``single`` (no other is equal) - ``kept`` (one of each content
    that several frames have; a zero-filled one needs none) = ``equal``: all that would be free if
    every equal frame were merged, whatever the VMA. ``lost``: of these stay, by reason:
    columns reason, frames, most first. ``split_pieces``: pieces of huge pages that nobody maps and
    that are freed besides, ``copied``: frames that break_cow() takes.
    """

    anonymous: float
    not_known: float
    single: float
    kept: float
    equal: float
    lost: pd.DataFrame
    split_pieces: float
    copied: int

    @property
    def ideal(self) -> float:
        """What would be free if every equal frame were merged and no copy were made."""
        return self.equal + self.split_pieces - self.copied

    @property
    def freed(self) -> float:
        """What becomes free: of all, ``Prediction.physical["frames_freed"]``."""
        return self.equal - float(self.lost["frames"].sum()) + self.split_pieces - self.copied


def losses(case: Case, fate: Fate, prediction: Prediction, vmas: Mask | None = None) -> Losses:
    """Count every anonymous frame once.

    Of the frames of one content one may stay; it is taken to be the one with the best reason: a KSM
    page before one that waits for a partner, both before one that can't merge. ``vmas``: bool per
    VMA; count only what is mapped there.
    """
    empty, freed = prediction.empty, prediction.freed
    content, gone, there = case.contents.of_frame, freed.gone, still_there(case)
    part = None if vmas is None else _part_of(case, vmas, empty)
    alike = _Alike.of(case, there, empty)
    reasons, names = _reasons(case, fate, empty)
    best = empty(len(case.contents), np.uint64)  # the reason of each content's best frame, and it
    best[:] = np.iinfo(np.uint64).max
    for piece in pieces(len(content)):
        stays = np.flatnonzero(alike.equal[piece] & ~gone[piece])
        np.minimum.at(best, content[piece][stays], _ranks(reasons, piece)[stays])

    total, not_known, single, known, goes = 0.0, 0.0, 0.0, 0.0, 0.0
    per_reason = np.zeros(len(names), np.float64)
    for piece in pieces(len(content)):
        of, leaves, equal = content[piece], gone[piece], alike.equal[piece]
        here = there[piece].astype(np.float64) if part is None else part[piece]
        is_known = (of >= 0) & there[piece]
        lost = np.flatnonzero(equal & ~leaves)
        lost = lost[alike.zero[of[lost]] | (best[of[lost]] != _ranks(reasons, piece)[lost])]
        per_reason += np.bincount(reasons[piece][lost], here[lost], minlength=len(names))
        total += float(here.sum())
        not_known += float(here[~is_known].sum())
        single += float(here[is_known & ~equal & ~leaves].sum())
        known += float(here[is_known & (equal | leaves)].sum())
        goes += float(here[leaves].sum())
    table = pd.DataFrame({"reason": names, "frames": per_reason})
    table = table[table["frames"] > 0].sort_values("frames", ascending=False, kind="stable")
    if part is None or vmas is None:
        split_pieces, copied = float(freed.unmapped.sum()), len(freed.copied)
    else:
        goes, split_pieces, copied = _credited(case, prediction, part, vmas)
    equal_frames = goes + float(per_reason.sum())
    return Losses(
        anonymous=total,
        not_known=not_known,
        single=single,
        kept=known - equal_frames,
        equal=equal_frames,
        lost=table.reset_index(drop=True),
        split_pieces=split_pieces,
        copied=copied,
    )


@dataclass(frozen=True)
class _Alike:
    """``equal``: bool per frame, its bytes are on another one too, or zero. ``zero``: bool per
    content, its bytes are.
    """

    equal: Mask
    zero: Mask

    @staticmethod
    def of(case: Case, there: Mask, empty: Empty) -> _Alike:
        content, contents = case.contents.of_frame, len(case.contents)
        frames, zero = empty(contents, np.int32), empty(contents, np.bool_)
        frames[:], zero[:] = 0, False
        for piece in pieces(len(content)):
            known = (content[piece] >= 0) & there[piece]
            np.add.at(frames, content[piece][known], np.int32(1))
            zero[content[piece][known & case.facts.zero[piece]]] = True

        def has_equal(piece: slice) -> Mask:
            known = np.flatnonzero((content[piece] >= 0) & there[piece])
            of, equal = content[piece][known], np.zeros(len(content[piece]), np.bool_)
            equal[known] = (frames[of] > 1) | zero[of]
            return equal

        return _Alike(made(len(content), np.bool_, has_equal, empty), zero)


def _ranks(reasons: Bytes, piece: slice) -> Words:
    """The frames of a piece, as numbers in the order of their reasons."""
    frame = np.arange(piece.start, piece.stop, dtype=np.uint64)
    return (reasons[piece].astype(np.uint64) << np.uint64(32)) | frame


def _part_of(case: Case, vmas: Mask, empty: Empty) -> Amounts:
    """Of each frame, which part of its mappings lies in ``vmas``."""
    frame, mappings = case.frame_of_row, empty(len(case.facts.items), np.int32)
    mappings[:] = 0
    for piece, inside in _inside(case, vmas):
        np.add.at(mappings, frame[piece][inside], np.int32(1))
    return made(
        len(mappings),
        np.float64,
        lambda piece: np.minimum(mappings[piece] / np.maximum(case.facts.mapcount[piece], 1), 1),
        empty,
    )


def _inside(case: Case, vmas: Mask) -> Iterator[tuple[slice, Mask]]:
    """Which mappings lie in ``vmas``, a piece at a time."""
    for piece, some in in_pieces(case.snapshot.mappings, ("vma_id",)):
        yield piece, vmas[some["vma_id"].to_numpy()]


def _credited(
    case: Case, prediction: Prediction, part: Amounts, vmas: Mask
) -> tuple[float, float, int]:
    """What mappings in ``vmas`` are credited with: frames that have an equal one, pieces of folios,
    copies.
    """
    credits, freed = prediction.credits, prediction.freed
    goes, credit = 0.0, 0.0
    for piece in pieces(len(part)):
        by_split = freed.gone[piece] & (credits.converted[piece] == 0)
        goes += float((credits.of_frame(piece) * part[piece]).sum()) + float(
            part[piece][by_split].sum()
        )
    copied = 0
    copies = np.sort(freed.copied)
    for piece, inside in _inside(case, vmas):
        credit += float(credits.of_row[piece][inside].sum())
        begin, end = np.searchsorted(copies, (piece.start, piece.stop))
        copied += int(np.count_nonzero(inside[copies[begin:end] - piece.start]))
    return goes, credit - goes + copied, copied


def _reasons(case: Case, fate: Fate, empty: Empty) -> tuple[Bytes, list[str]]:
    """Why each frame would stay: a number, the best reason the smallest; and their names."""
    facts, candidates = case.facts, case.candidates
    node = fate.node.copy()
    node[live_node_frames(case.snapshot)] = True
    changing = np.zeros(len(node), np.bool_)
    for piece in pieces(len(candidates.changing)):
        changing[case.frame_of_row[candidates.changing[piece]]] = True
    first_vma = _first_vmas(case, empty)
    by_vma = sorted({str(each) for each in candidates.excluded_by if each is not None})
    names = [KSM_PAGE, ZERO, WAITS, ELSEWHERE, NOT_CHOSEN, NO_ITEM, *by_vma, PINNED, CHANGES]
    number = {name: place for place, name in enumerate(names)}
    of_vma = np.where(candidates.vmas, number[NO_ITEM], number[NOT_CHOSEN]).astype(np.uint8)
    for name in by_vma:
        of_vma[candidates.excluded_by == name] = number[name]

    def reasons_in(piece: slice) -> Bytes:
        reason = of_vma[first_vma[piece]]
        taking_part, left = facts.items[piece] > 0, fate.left[piece] > 0
        blocked = facts.blocked[piece] | facts.maybe_blocked[piece]
        of_node, zero = node[piece], facts.zero[piece]
        for name, chosen in (
            (WAITS, taking_part),
            (ELSEWHERE, taking_part & left),
            (PINNED, taking_part & blocked & ~left),
            (KSM_PAGE, of_node),
            (ZERO, zero & (of_node | taking_part) & ~blocked & ~left),
            (ZERO, zero & of_node),
            (CHANGES, changing[piece] & ~of_node),
        ):
            reason[chosen] = number[name]
        return reason

    return made(len(node), np.uint8, reasons_in, empty), names


def _first_vmas(case: Case, empty: Empty) -> Numbers:
    """The VMA of the first mapping of each frame."""
    vma, frame = case.snapshot.mappings["vma_id"].to_numpy(), case.frame_of_row
    first: Numbers = empty(len(case.facts.items), np.int32)
    first[:] = vma[0] if len(vma) else 0
    for piece in reversed(list(pieces(len(vma)))):
        first[frame[piece][::-1]] = vma[piece][::-1]
    return first

"""Why equal frames stay: from all anonymous frames down to those that become free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Mask, Numbers
from estimator.ksm.accounting import still_there
from estimator.ksm.case import Case
from estimator.ksm.credits import Credits, Freed, frame_credits
from estimator.ksm.fate import Fate
from estimator.ksm.frames import live_node_frames
from estimator.ksm.prediction import Prediction

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


def losses(case: Case, fate: Fate, prediction: Prediction, rows: Ints | None = None) -> Losses:
    """Count every anonymous frame once.

    Of the frames of one content one may stay; it is taken to be the one with the best reason: a KSM
    page before one that waits for a partner, both before one that can't merge. ``rows``: of
    ``mappings``; count only what these map.
    """
    freed = prediction.freed
    content, gone = case.contents.of_frame, freed.gone
    there = still_there(case)
    known = (content >= 0) & there
    frames = np.bincount(content[known], minlength=len(case.contents))
    of_zeroes = np.zeros(len(frames), np.bool_)
    of_zeroes[content[case.facts.zero & known]] = True
    has_equal = known & np.append((frames > 1) | of_zeroes, False)[content]
    staying = np.flatnonzero(has_equal & ~gone)
    reasons, names = _reasons(case, fate, staying)
    order = np.lexsort((reasons, content[staying]))
    staying, reasons = staying[order], reasons[order]
    of = content[staying]
    first = np.append(True, of[1:] != of[:-1])[: len(of)]
    lost = ~first | of_zeroes[of]
    part = there.astype(np.float64) if rows is None else _part_of(case, rows)
    per_reason = np.bincount(reasons[lost], part[staying[lost]], minlength=len(names))
    table = pd.DataFrame({"reason": names, "frames": per_reason})
    table = table[table["frames"] > 0].sort_values("frames", ascending=False, kind="stable")
    if rows is None:
        goes, pieces, copied = _sum(part, gone), float(freed.unmapped.sum()), len(freed.copied)
    else:
        goes, pieces, copied = _credited(prediction.credits, freed, part, rows)
    equal = goes + float(per_reason.sum())
    return Losses(
        anonymous=float(part.sum()),
        not_known=_sum(part, ~known),
        single=_sum(part, known & ~has_equal & ~gone),
        kept=_sum(part, known & (has_equal | gone)) - equal,
        equal=equal,
        lost=table.reset_index(drop=True),
        split_pieces=pieces,
        copied=copied,
    )


def _sum(part: Amounts, frames: Mask) -> float:
    return float(part[frames].sum())


def _part_of(case: Case, rows: Ints) -> Amounts:
    """Of each frame, which part of its mappings ``rows`` are."""
    mappings = np.bincount(case.frame_of_row[rows], minlength=len(case.facts.items))
    part: Amounts = np.minimum(mappings / np.maximum(case.facts.mapcount, 1), 1)
    return part


def _credited(
    credits: Credits, freed: Freed, part: Amounts, rows: Ints
) -> tuple[float, float, int]:
    """What ``rows`` are credited with: frames that have an equal one, pieces of folios, copies."""
    by_split = freed.gone & (credits.converted == 0)
    of_frame = frame_credits(credits.given_up, credits.stable_node, credits.stays)
    goes = float((of_frame * part).sum()) + _sum(part, by_split)
    copied = int(np.isin(freed.copied, rows).sum())
    return goes, float(credits.of_row[rows].sum()) - goes + copied, copied


def _reasons(case: Case, fate: Fate, frames: Ints) -> tuple[Ints, list[str]]:
    """Why each of ``frames`` stays: a number, the best reason the smallest; and their names."""
    facts, candidates = case.facts, case.candidates
    node = fate.node.copy()
    node[live_node_frames(case.snapshot)] = True
    changing = _of_rows(case, candidates.changing)
    taking_part = facts.items[frames] > 0
    vma = _vma_of(case, frames)
    excluded = candidates.excluded_by[vma]
    by_vma = sorted({str(each) for each in excluded[~taking_part] if each is not None})
    names = [KSM_PAGE, ZERO, WAITS, ELSEWHERE, NOT_CHOSEN, NO_ITEM, *by_vma, PINNED, CHANGES]
    number = {name: place for place, name in enumerate(names)}
    selected = candidates.vmas[vma]
    reason = np.where(selected, number[NO_ITEM], number[NOT_CHOSEN])
    for name in by_vma:
        reason[excluded == name] = number[name]
    blocked = facts.blocked | facts.maybe_blocked
    stays = node[frames] | taking_part
    for name, chosen in (
        (WAITS, taking_part),
        (ELSEWHERE, taking_part & (fate.left[frames] > 0)),
        (PINNED, taking_part & blocked[frames] & (fate.left[frames] == 0)),
        (KSM_PAGE, node[frames]),
        (ZERO, facts.zero[frames] & stays & ~blocked[frames] & (fate.left[frames] == 0)),
        (ZERO, facts.zero[frames] & node[frames]),
        (CHANGES, changing[frames] & ~node[frames]),
    ):
        reason[chosen] = number[name]
    return reason, names


def _vma_of(case: Case, frames: Ints) -> Ints:
    """The VMA of the first mapping of each frame."""
    rows = np.zeros(len(case.facts.items), np.int64)
    rows[case.frame_of_row[::-1]] = np.arange(len(case.frame_of_row))[::-1]
    vma: Ints = case.snapshot.mappings["vma_id"].to_numpy()[rows[frames]]
    return vma


def _of_rows(case: Case, rows: Ints | Numbers) -> Mask:
    frames = np.zeros(len(case.facts.items), np.bool_)
    frames[case.frame_of_row[rows]] = True
    return frames

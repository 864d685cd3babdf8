"""The smallest sets of lines, and how much each saves.

The saving is *supermodular*: what a line brings only grows with the lines that are in already, for
of the copies of a content all but one become free, and a frame only once all who map it are in. So
what is not worth its line with all the others in is never worth it, and leaves first (``_core``).
Of what remains, each number of lines has one best set: by trying them all up to ``EXACT`` lines,
above that by letting the line go that costs least. These sets depend on no share, so asking for
more never takes fewer lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.frontier import Peeling
from estimator.advice.patterns import Patterns
from estimator.arrays import Ints

EXACT = 12
_ROWS_AT_ONCE = 1024

Amounts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Best:
    """The best set found of so many lines: ``lines`` (i64), and what it saves net (f64, pages)."""

    lines: Ints
    net_pages: float


def best_sets(found: Patterns, cost_pages: Amounts, worth_pages: float) -> list[Best]:
    """The best set of each number of lines, fewest lines first, each saving more than those before.

    ``cost_pages``: f64 per line, what ksmd's records of it take. In every set each line saves at
    least ``worth_pages`` net, given the others. What saves without any line is in all of them.
    """
    count = len(cost_pages)
    peeling, inside = Peeling(found, max(count, 1)), np.ones(count, np.bool_)
    _core(peeling, inside, cost_pages, worth_pages)
    chain = []
    while inside.sum() > EXACT:
        chain.append(_best(peeling, inside, cost_pages))
        _leave(peeling, inside, cost_pages)
        _core(peeling, inside, cost_pages, worth_pages)
    sets = _tried(found, np.flatnonzero(inside), cost_pages, worth_pages) + chain[::-1]
    before = np.append(-np.inf, np.maximum.accumulate([one.net_pages for one in sets]))
    return [one for one, most in zip(sets, before, strict=False) if one.net_pages > most]


def _best(peeling: Peeling, inside: npt.NDArray[np.bool_], cost_pages: Amounts) -> Best:
    lines = np.flatnonzero(inside)
    return Best(lines, float(peeling.saved_pages - cost_pages[lines].sum()))


def _core(
    peeling: Peeling, inside: npt.NDArray[np.bool_], cost_pages: Amounts, worth_pages: float
) -> None:
    """Let leave what is not worth its line; the order makes no difference."""
    while inside.any() and _gain(peeling, inside, cost_pages).min() < worth_pages:
        _leave(peeling, inside, cost_pages)


def _leave(peeling: Peeling, inside: npt.NDArray[np.bool_], cost_pages: Amounts) -> None:
    least = int(np.argmin(_gain(peeling, inside, cost_pages)))
    inside[least] = False
    peeling.remove(least)


def _gain(peeling: Peeling, inside: npt.NDArray[np.bool_], cost_pages: Amounts) -> Amounts:
    gain: Amounts = np.where(inside, peeling.loss_pages[: len(inside)] - cost_pages, np.inf)
    return gain


def _tried(found: Patterns, lines: Ints, cost_pages: Amounts, worth_pages: float) -> list[Best]:
    """The best set of each number of ``lines``, by trying all of their sets."""
    net = _saved_by_set(found, lines, len(cost_pages)).astype(np.float64)
    sets = np.arange(len(net))
    admitted = np.ones(len(net), np.bool_)
    size = np.zeros(len(net), np.int64)
    for bit, line in enumerate(lines):
        has = (sets >> bit & 1) == 1
        net[has] -= cost_pages[line]
        size[has] += 1
    for bit in range(len(lines)):
        has = np.flatnonzero(sets >> bit & 1)
        admitted[has] &= net[has] - net[has ^ (1 << bit)] >= worth_pages
    best = []
    for number in range(len(lines) + 1):
        those = np.flatnonzero(admitted & (size == number))
        if len(those):
            chosen = int(those[np.argmax(net[those])])
            members = lines[(chosen >> np.arange(len(lines)) & 1) == 1]
            best.append(Best(members, float(net[chosen])))
    return best


def _saved_by_set(found: Patterns, lines: Ints, count: int) -> Ints:
    """Frames that become free, for each set of ``lines`` as a bit mask (i64 (2**len(lines),)).

    Of each content all frames become free whose members are in, but one where there is any.
    """
    bit = np.full(max(count, 1), -1, np.int64)
    bit[lines] = np.arange(len(lines))
    groups = len(found.pattern)
    of_row = bit[found.row_piece]
    mask = np.zeros(groups, np.int64)
    np.bitwise_or.at(mask, found.row_group, 1 << of_row.clip(0))
    possible = np.ones(groups, np.bool_)
    possible[found.row_group[of_row < 0]] = False
    weight = (found.contents[found.pattern] * found.frames)[possible]
    saved = np.zeros(1 << len(lines), np.int64)
    np.add.at(saved, mask[possible], weight)
    saved = _sum_of_subsets(saved)
    kept = possible & ~found.free[found.pattern]
    pairs = pd.DataFrame({"pattern": found.pattern[kept], "mask": mask[kept]}).drop_duplicates()
    names = np.random.default_rng(0).integers(1, 2**64, size=1 << len(lines), dtype=np.uint64)
    signature = np.zeros(len(found.contents), np.uint64)
    np.add.at(signature, pairs["pattern"].to_numpy(), names[pairs["mask"].to_numpy()])
    kind, kinds = pd.factorize(signature)
    contents = np.bincount(kind, weights=found.contents, minlength=len(kinds)).astype(np.int64)
    pairs = pairs.assign(kind=kind[pairs["pattern"].to_numpy()]).drop_duplicates(["kind", "mask"])
    pairs = pairs.sort_values("kind")
    for first in range(0, len(kinds), _ROWS_AT_ONCE):
        part = pairs[pairs["kind"].between(first, first + _ROWS_AT_ONCE - 1)]
        rows = min(_ROWS_AT_ONCE, len(kinds) - first)
        there = np.zeros((rows, 1 << len(lines)), np.int64)
        there[part["kind"].to_numpy() - first, part["mask"].to_numpy()] = 1
        one_stays = _sum_of_subsets(there) > 0
        saved -= contents[first : first + rows] @ one_stays
    return saved


def _sum_of_subsets(values: Ints) -> Ints:
    """Per bit mask (the last axis) the sum over all masks that it contains."""
    length = values.shape[-1]
    summed = values.copy()
    step = 1
    while step < length:
        halves = summed.reshape(*values.shape[:-1], -1, 2, step)
        halves[..., 1, :] += halves[..., 0, :]
        step *= 2
    return summed

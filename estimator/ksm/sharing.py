"""Who shares with whom: the frames that become free, by the pairs that hold them.

Of ``d`` frames that end as one, ``d - 1`` become free. Each two of the ``d`` are credited with
``2 / d`` of a frame, which adds up to ``d - 1``; a frame that fork shares is split in equal parts
between its mappings. ``d`` counts the frame that stays, whoever holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Appended, FirstOf, Ints, Numbers, Words, in_turn, pieces
from estimator.ksm.content_parts import rows_by_end, rows_by_frame
from estimator.snapshot.names import units_of
from estimator.snapshot.snapshot import vma_starts, vmas_of

if TYPE_CHECKING:
    from estimator.ksm.prediction import Prediction

By = Literal["process", "program", "service"]
Floats = npt.NDArray[np.float64]

KEYS: dict[By, list[str]] = {
    "process": ["pid", "comm", "unit"],
    "program": ["comm", "unit"],
    "service": ["unit"],
}
_MOST = 2000
TIE_DIGITS = 6
"""Sums of fractions that differ later are equal: the order of their parts made the difference."""
_PRODUCTS_AT_ONCE = 1 << 22


def pairs(prediction: Prediction, by: By) -> pd.DataFrame:
    """``Prediction.pairs``."""
    groups, group_of_mm = _groups(prediction, by)
    matrix, alone = saved_between(prediction, group_of_mm, len(groups))
    one, other = np.nonzero(np.triu(matrix))
    by_itself = np.flatnonzero(alone)
    nobody = np.full(len(by_itself), -1)
    sides = {
        "_a": groups.take(np.append(one, by_itself)).reset_index(drop=True),
        "_b": groups.reindex(np.append(other, nobody)).reset_index(drop=True),
    }
    table = pd.concat([side.add_suffix(which) for which, side in sides.items()], axis=1)
    table["saved_pages"] = np.append(matrix[one, other], alone[by_itself])
    order = np.argsort(-table["saved_pages"].round(TIE_DIGITS), kind="stable")
    return table.take(order).reset_index(drop=True)


def saved_between(prediction: Prediction, group_of_mm: Ints, groups: int) -> tuple[Floats, Floats]:
    """What two groups of processes save together, and what each saves without any partner.

    ``group_of_mm``: i64 per row of ``snapshot.processes``, -1 for none. Both in pages: f64,
    groups x groups, symmetric, on the diagonal what a group saves with itself; and f64 per group,
    which takes in pages that go to the kernel's zero page, pieces of huge pages that nobody maps,
    and copies made by break_cow(), less than 0. With every process in a group the upper triangle
    with the diagonal and the second part add up to ``physical["frames_freed"]``.
    """
    mms, inside = len(group_of_mm), np.flatnonzero(group_of_mm >= 0)
    if groups == mms <= _MOST or "between_mms" in vars(prediction):  # else groups alone cost less
        of_mms, alone_of_mms = prediction.between_mms
        group = group_of_mm[inside]
        matrix, alone = np.zeros((groups, groups)), np.zeros(groups)
        np.add.at(matrix, (group[:, None], group), of_mms[np.ix_(inside, inside)])
        np.add.at(alone, group, alone_of_mms[inside])
    else:
        matrix, alone = sums_between(prediction, group_of_mm, groups)
    matrix *= 2 - np.eye(groups)
    for saved in (matrix, alone):
        saved[np.abs(saved) < 1e-6] = 0
    return matrix, alone


def sums_between(prediction: Prediction, group_of_mm: Ints, groups: int) -> tuple[Floats, Floats]:
    """As ``saved_between``, but what two save together is half at either side of the diagonal.

    The sums of groups are those of their members.
    """
    freed, found = prediction.freed, prediction.credits
    group_of_vma = group_of_mm[prediction.snapshot.vmas["mm_id"].to_numpy()]
    starts = vma_starts(prediction.snapshot)
    names = np.random.default_rng(0).integers(1, 2**64, size=groups, dtype=np.uint64)
    first, credit_of_row = FirstOf(len(found.ends), prediction.empty), found.of_row

    def of_frames(rows: Ints, alone: Floats) -> tuple[_Vectors, _Held]:
        """Add to ``alone`` what ``rows`` save so; who holds the frames that end with others."""
        merging = Appended(4, len(rows))
        for piece in pieces(len(rows)):
            here = rows[piece]
            group, credit = group_of_vma[vmas_of(starts, here)], credit_of_row[here]
            frame = freed.frame_of_row.take(here).astype(np.int32)
            end, left = found.end_of(frame), found.given_up.take(frame)
            chosen = np.flatnonzero((end >= 0) & (prediction.is_converted(here) | ~left))
            frame, end, left = frame[chosen], end[chosen], left[chosen]
            stays = found.given_up.take(end) & (found.stable_node.take(end) == end)
            ending = found.ends.take(end).astype(np.int32)
            ending += ~stays  # with the one that stays, whoever holds it
            each = np.where(found.given_up.take(end), 1 - 1 / ending, 1.0)
            each /= np.maximum(found.converted.take(frame), 1)
            credit[chosen[left]] -= each[left]
            inside = np.flatnonzero(group >= 0)
            np.add.at(alone, group[inside], credit[inside])
            merging.add(frame, end, group[chosen], ending)
        frame, end, group, ending = merging.columns
        frame = first.row(frame)
        held = 1 / np.bincount(frame).take(frame)
        return _vectors(frame, group, held, -1 / ending, names), _Held(end, group, held, ending)

    def part(rows: Ints) -> tuple[Floats, list[_Vectors]]:
        alone = np.zeros(groups)
        vectors, held = list[_Vectors](), list[_Held]()
        for some in rows_by_frame(rows, freed.frame_of_row):
            of_frame, of_end = of_frames(some, alone)
            vectors.append(of_frame)
            held.append(of_end if len(some) == len(rows) else of_end.summed(groups))
        end, group, value, ending = (np.concatenate(column) for column in zip(*held, strict=True))
        return alone, [*vectors, _vectors(first.row(end), group, value, 1 / ending, names)]

    matrix: Floats = np.zeros((groups, groups))
    alone: Floats = np.zeros(groups)
    parts = rows_by_end(lambda _, frame: found.end_of(frame), freed.frame_of_row, prediction.empty)
    for alone_of_part, vectors in in_turn(part, parts):
        alone += alone_of_part
        for some in vectors:
            _add_products(matrix, some)
    return matrix, alone


class _Held(NamedTuple):
    """Per mapping: on which frame its own one ends, its group, -1 for none, and how much it holds.

    ``ending``: how many frames end there.
    """

    end: Numbers
    group: Numbers
    value: Floats
    ending: Numbers

    def summed(self, groups: int) -> _Held:
        """One row for what a group holds of an end; there are so many ``groups``."""
        keys = self.end.astype(np.int64) * (groups + 1) + self.group
        _, row, place = np.unique(keys, return_index=True, return_inverse=True)
        value = np.bincount(place, self.value, len(row)).astype(np.float64)
        return _Held(self.end[row], self.group[row], value, self.ending[row])


@dataclass(frozen=True)
class _Vectors:
    """Sparse vectors of groups, none of them twice, and a factor for each.

    Per entry, in the order of the vectors: which ``vector`` it is of, its ``group`` and ``value``.
    """

    vector: Ints
    group: Ints
    value: Floats
    factor: Floats


def _vectors(
    first: Numbers, group: Numbers, value: Floats, factor: Floats, names: Words
) -> _Vectors:
    """What the mappings of each frame, or of each end of frames, come to for the groups.

    Per mapping: the ``first`` one of the same frame or end, its ``group``, -1 for none, its
    ``value`` and the ``factor`` of that frame or end. Where the vectors are equal, by the random
    ``names`` of the groups, they are one with the sum of their factors.
    """
    heads = first
    if (group < 0).any():
        inside = np.flatnonzero(group >= 0)
        heads, group, value = first[inside], group[inside], value[inside]
    signature = np.zeros(len(first), np.uint64)
    for piece in pieces(len(heads)):
        weight = np.rint(value[piece] * 2**20).astype(np.uint64)
        np.add.at(signature, heads[piece], names.take(group[piece]) * weight)
    one_each = np.flatnonzero(first == np.arange(len(first), dtype=np.int32))
    _, example, kind = np.unique(signature[one_each], return_index=True, return_inverse=True)
    number = np.full(len(first), -1, np.int32)
    number[one_each[example]] = np.arange(len(example))
    vector = number.take(heads)
    chosen = np.flatnonzero(vector >= 0)
    keys = vector[chosen].astype(np.int64) * len(names) + group[chosen]
    entries, place = np.unique(keys, return_inverse=True)
    sums = np.bincount(place, value[chosen], len(entries)).astype(np.float64)
    factors = np.bincount(kind, factor[one_each], len(example)).astype(np.float64)
    return _Vectors(entries // len(names), entries % len(names), sums, factors)


def _groups(prediction: Prediction, by: By) -> tuple[pd.DataFrame, Ints]:
    """The names of the groups, and the group of every mm; beyond ``_MOST`` the rest is one."""
    processes = prediction.snapshot.processes
    table = processes[["pid", "comm"]].assign(unit=units_of(processes["cgroup"]))[KEYS[by]]
    group: Ints = np.arange(len(table), dtype=np.int64)
    names = table
    if by != "process":
        group = np.asarray(table.groupby(KEYS[by], sort=False).ngroup(), np.int64)
        names = table.drop_duplicates().reset_index(drop=True)
    names = names.astype({"pid": "Int64"}) if by == "process" else names
    if len(names) <= _MOST:
        return names, group
    snapshot = prediction.snapshot
    mm_of_vma, vma_of_row = (
        table.to_numpy() for table in (snapshot.vmas["mm_id"], snapshot.mappings["vma_id"])
    )
    weight = np.zeros(len(names), np.int64)
    for piece in pieces(len(vma_of_row)):
        converted = prediction.is_converted(piece)
        np.add.at(weight, group[mm_of_vma[vma_of_row[piece]]], converted)
    kept = np.sort(np.argsort(-weight, kind="stable")[: _MOST - 1])
    place: Ints = np.full(len(names), len(kept), np.int64)
    place[kept] = np.arange(len(kept))
    others = pd.DataFrame({key: [0 if key == "pid" else "(others)"] for key in KEYS[by]})
    names = pd.concat([names.take(kept), others.astype(names.dtypes.to_dict())], ignore_index=True)
    return names, place[group]


def _add_products(matrix: Floats, vectors: _Vectors) -> None:
    """Add to ``matrix`` every vector times itself times its factor."""
    groups = len(matrix)
    names, start, lengths = np.unique(vectors.vector, return_index=True, return_counts=True)
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        step = max(_PRODUCTS_AT_ONCE // length**2, 1)
        for some in (chosen[n : n + step] for n in range(0, len(chosen), step)):
            entries = start[some][:, None] + np.arange(length)
            at, values = vectors.group[entries], vectors.value[entries]
            products = vectors.factor[names[some]][:, None, None]
            products = products * values[:, :, None] * values[:, None, :]
            entry = at[:, :, None] * groups + at[:, None, :]
            np.add.at(matrix.ravel(), entry.ravel(), products.ravel())

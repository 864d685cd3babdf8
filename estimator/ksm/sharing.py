"""Who shares with whom: the frames that become free, by the pairs that hold them.

Of ``d`` frames that end as one, ``d - 1`` become free. Each two of the ``d`` are credited with
``2 / d`` of a frame, which adds up to ``d - 1``; a frame that fork shares is split in equal parts
between its mappings. ``d`` counts the frame that stays, whoever holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Numbers, count, pieces
from estimator.ksm.content_parts import rows_by_content
from estimator.ksm.credits import ends_of
from estimator.snapshot.names import units_of

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
    vma_of_row = prediction.snapshot.mappings["vma_id"].to_numpy()
    node = ends_of(found.given_up, found.stable_node, prediction.empty)
    is_end = count(node, len(node), empty=prediction.empty, ignore=-1)
    for piece in pieces(len(node)):
        ends = np.flatnonzero(is_end[piece])
        node[piece][ends] = ends + piece.start
    frames = count(node, len(node), empty=prediction.empty, ignore=-1)
    converted = prediction.converted

    matrix: Floats = np.zeros((groups, groups))
    alone: Floats = np.zeros(groups)
    for rows in rows_by_content(freed.content, freed.frame_of_row, prediction.empty):
        group, credit = group_of_vma[vma_of_row[rows]], found.of_row[rows]
        frame = freed.frame_of_row[rows].astype(np.int64)
        merging = (node[frame] >= 0) & (converted[rows] | ~found.given_up[frame])
        frame = frame[merging]
        leaving = found.given_up[frame]
        stays = found.given_up[node[frame]]
        each = np.where(stays, 1 - 1 / frames[node[frame]], 1.0)
        each /= np.maximum(found.converted[frame], 1)
        credit[np.flatnonzero(merging)[leaving]] -= each[leaving]
        inside = group >= 0
        alone += np.bincount(group[inside], credit[inside], groups)
        _add_part(matrix, node, frames, frame, group[merging])
    return matrix, alone


def _add_part(matrix: Floats, node: Numbers, frames: Numbers, frame: Ints, group: Ints) -> None:
    """Add what mappings of some contents come to.

    ``node``: per frame, where it ends, and ``frames``, how many end there. Per mapping: its
    ``frame``, and its ``group``, -1 for none.
    """
    inside = group >= 0
    names, holders = np.unique(frame, return_counts=True)
    held, holder, times = _sums(frame[inside], group[inside], len(matrix))
    part = times / holders[np.searchsorted(names, held)]
    on_node, sharer, parts = _sums(node[held].astype(np.int64), holder, len(matrix), part)
    _add_products(matrix, on_node, sharer, parts, 1 / frames[on_node])
    _add_products(matrix, held, holder, part, -1 / frames[node[held]])


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
    weight, converted = np.zeros(len(names), np.int64), prediction.converted
    for piece in pieces(len(converted)):
        np.add.at(weight, group[mm_of_vma[vma_of_row[piece]]], converted[piece])
    kept = np.sort(np.argsort(-weight, kind="stable")[: _MOST - 1])
    place: Ints = np.full(len(names), len(kept), np.int64)
    place[kept] = np.arange(len(kept))
    others = pd.DataFrame({key: [0 if key == "pid" else "(others)"] for key in KEYS[by]})
    names = pd.concat([names.take(kept), others.astype(names.dtypes.to_dict())], ignore_index=True)
    return names, place[group]


def _sums(
    one: Ints, group: Ints, groups: int, weights: Floats | None = None
) -> tuple[Ints, Ints, Floats]:
    """The sums of ``weights`` by ``one`` and ``group``: both, in order, and the sums."""
    keys, place = np.unique(one * groups + group, return_inverse=True)
    return keys // groups, keys % groups, np.bincount(place, weights, len(keys)).astype(np.float64)


def _add_products(matrix: Floats, vector: Ints, group: Ints, value: Floats, factor: Floats) -> None:
    """Add to ``matrix`` every vector times itself times its factor.

    Per entry, in the order of the vectors: which vector it is of, its place there and its value,
    and the factor of the vector. Equal vectors are multiplied once.
    """
    if not len(vector):
        return
    groups = len(matrix)
    start = np.flatnonzero(np.append(True, vector[1:] != vector[:-1]))
    names = np.random.default_rng(0).integers(1, 2**64, size=groups, dtype=np.uint64)
    signature = np.add.reduceat(names[group] * np.rint(value * 2**20).astype(np.uint64), start)
    _, first, kind = np.unique(signature, return_index=True, return_inverse=True)
    factors = np.bincount(kind, factor[start])
    lengths = np.diff(np.append(start, len(vector)))[first]
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        step = max(_PRODUCTS_AT_ONCE // length**2, 1)
        for some in (chosen[n : n + step] for n in range(0, len(chosen), step)):
            entries = start[first[some]][:, None] + np.arange(length)
            at, values = group[entries], value[entries]
            products = factors[some][:, None, None] * values[:, :, None] * values[:, None, :]
            np.add.at(matrix, (at[:, :, None], at[:, None, :]), products)

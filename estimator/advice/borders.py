"""Who shares with whom, and how much of the saving crosses a border between domains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, Ints, Narrow, Words, ascending, find, narrow
from estimator.ksm.content_parts import rows_by_end, rows_by_frame, rows_by_number
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot, vma_starts, vmas_of


@dataclass(frozen=True)
class Borders:
    """The saving in frames, split at the border between domains.

    ``within``: would also be saved if no page could be shared over a border. ``across``: needs
    sharing between domains. Both f64.
    """

    within: float
    across: float


def borders(
    snapshot: Snapshot, prediction: Prediction, domain_of_mm: npt.NDArray[np.int64]
) -> Borders:
    """Split the saving at the borders of ``domain_of_mm`` (i64 per row of ``snapshot.processes``).

    Of ``d`` frames from ``k`` domains that end as one, ``d - k`` would be saved inside the domains
    and ``k - 1`` are saved across. Frames that fork shares between several domains already count as
    a domain of their own. The kernel's zero page is not shared with anybody in particular: within.
    """
    found, freed, starts = prediction.credits, prediction.freed, vma_starts(snapshot)
    domain_of_vma = domain_of_mm[snapshot.vmas["mm_id"].to_numpy()]
    names, across = _names(domain_of_vma), 0
    nodes = rows_by_end(
        lambda _, frame: found.stable_node.take(frame), freed.frame_of_row, prediction.empty
    )
    for rows in nodes:
        parts = []
        for some in rows_by_frame(rows, freed.frame_of_row):
            frame, domain = freed.frame_of_row.take(some), domain_of_vma[vmas_of(starts, some)]
            ending = found.given_up.take(frame) & (found.stable_node.take(frame) >= 0)
            frames, signature = _signatures(frame[ending], domain[ending], names)
            part = pd.DataFrame({"node": found.stable_node.take(frames), "domain": signature})
            parts.append(part.drop_duplicates())
        sides = pd.concat(parts).drop_duplicates()
        across += len(sides) - sides["node"].nunique()
    total = float(prediction.freed.frames)
    return Borders(within=total - across, across=float(across))


def domain_signature(
    snapshot: Snapshot, prediction: Prediction, domain_of_mm: npt.NDArray[np.int64]
) -> Narrow:
    """A number per frame of ``prediction.freed``, equal where the set of domains is; narrow."""
    domain_of_vma = domain_of_mm[snapshot.vmas["mm_id"].to_numpy()]
    number = prediction.empty(len(prediction.freed.gone), np.int32)
    known, number_of = np.zeros(1, np.uint64), np.zeros(1, np.int32)
    number[:] = 0
    found = set_signatures(
        prediction.freed.frame_of_row, vma_starts(snapshot), domain_of_vma, prediction.empty
    )
    for frames, signature in found:
        sets = ascending(signature)
        new = sets[~find(known, sets)[1]]
        before = np.searchsorted(known, new)
        numbers = np.arange(len(known), len(known) + len(new), dtype=np.int32)
        known, number_of = np.insert(known, before, new), np.insert(number_of, before, numbers)
        number[frames] = number_of[np.searchsorted(known, sets)][np.searchsorted(sets, signature)]
    return narrow(number, prediction.empty)


def set_signatures(
    frame_of_row: npt.NDArray[np.integer],
    starts: Ints,
    domain_of_vma: npt.NDArray[np.int64],
    empty: Empty = np.empty,
) -> Iterator[tuple[Ints, Words]]:
    """The frames that are mapped, and a number for each, equal where the set of its domains is.

    ``starts``: ``vma_starts`` of the rows.
    """
    names = _names(domain_of_vma)
    for rows in rows_by_number(frame_of_row, empty):
        domain = domain_of_vma[vmas_of(starts, rows)]
        yield _signatures(frame_of_row[rows], domain, names)


def _names(domain_of_vma: Ints) -> Words:
    """A random number for each domain; the last one for -1, where it is not known."""
    size = int(domain_of_vma.max(initial=-1)) + 2
    return np.random.default_rng(0).integers(1, 2**64, size=size, dtype=np.uint64)


def _signatures(frame: npt.NDArray[np.integer], domain: Ints, names: Words) -> tuple[Ints, Words]:
    """The frames of some rows, each once, ascending, and the sum of the names of their domains."""
    pairs = ascending(frame.astype(np.int64) * len(names) + (domain + 1))
    frames, domain = np.divmod(pairs, len(names))
    begins = np.flatnonzero(np.append(True, frames[1:] != frames[:-1])[: len(frames)])
    sums: Words = np.add.reduceat(names[domain - 1], begins) if len(begins) else names[:0]
    return frames[begins], sums


def sharing_matrix(
    snapshot: Snapshot, prediction: Prediction, group_of_mm: npt.NDArray[np.int64], groups: int
) -> npt.NDArray[np.int64]:
    """How many merged pages (stable nodes) two groups have in common (i64, groups × groups).

    ``group_of_mm`` (i64 per row of ``snapshot.processes``) is -1 for an mm in no group. On the
    diagonal: nodes on which the group itself has at least two mappings.
    """
    matrix = np.zeros((groups, groups), np.int64)
    group_of_vma = group_of_mm[snapshot.vmas["mm_id"].to_numpy()]
    starts, freed = vma_starts(snapshot), prediction.freed
    nodes = rows_by_end(
        lambda piece, _: prediction.stable_node[piece], freed.frame_of_row, prediction.empty
    )
    for rows in nodes:
        counted = []
        for some in rows_by_frame(rows, freed.frame_of_row):
            group, stable_node = group_of_vma[vmas_of(starts, some)], prediction.stable_node[some]
            inside = (stable_node >= 0) & (group >= 0)
            mappings = stable_node[inside].astype(np.int64) * groups + group[inside]
            counted.append(np.unique(mappings, return_counts=True))
        keys, counts = (np.concatenate(column) for column in zip(*counted, strict=True))
        key, place = np.unique(keys, return_inverse=True)
        times = np.bincount(place, counts, len(key))
        node, member = pd.factorize(key // groups)[0], key % groups
        np.add.at(matrix, (member[times > 1], member[times > 1]), 1)
        for other in range(groups):
            common = np.isin(node, node[member == other], kind="table")
            matrix[other] += np.where(
                np.arange(groups) == other, 0, np.bincount(member[common], minlength=groups)
            )
    return matrix

"""Who shares with whom, and how much of the saving crosses a border between domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Empty, ascending
from estimator.ksm.content_parts import rows_by_content, rows_by_number
from estimator.ksm.credits import ends_of
from estimator.ksm.prediction import Prediction
from estimator.snapshot.snapshot import Snapshot


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
    found = prediction.credits
    signature = domain_signature(snapshot, prediction, domain_of_mm)
    node, across = ends_of(found.given_up, found.stable_node, prediction.empty), 0
    for frames in rows_by_number(node, prediction.empty):
        frames = frames[node[frames] >= 0]
        domain, of_node = signature[frames], node[frames]
        order = np.lexsort((domain, of_node))
        domain, of_node = domain[order], of_node[order]
        same_node = of_node[1:] == of_node[:-1]
        across += int(np.count_nonzero(same_node & (domain[1:] != domain[:-1])))
    total = float(prediction.freed.frames)
    return Borders(within=total - across, across=float(across))


def domain_signature(
    snapshot: Snapshot, prediction: Prediction, domain_of_mm: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """A number per frame of ``prediction.freed``, equal where the set of domains is (u64)."""
    return set_signatures(
        prediction.freed.frame_of_row,
        snapshot.mappings["vma_id"].to_numpy(),
        domain_of_mm[snapshot.vmas["mm_id"].to_numpy()],
        len(prediction.freed.gone),
        prediction.empty,
    )


def set_signatures(
    frame_of_row: npt.NDArray[np.integer],
    vma_of_row: npt.NDArray[np.integer],
    domain_of_vma: npt.NDArray[np.int64],
    frames: int,
    empty: Empty = np.empty,
) -> npt.NDArray[np.uint64]:
    """A number for each of ``frames``, equal where the set of domains of its rows is (u64)."""
    names = np.random.default_rng(0).integers(
        1, 2**64, size=int(domain_of_vma.max(initial=-1)) + 1, dtype=np.uint64
    )
    signature = empty(frames, np.uint64)
    signature[:] = 0
    for rows in rows_by_number(frame_of_row, empty):
        domain = domain_of_vma[vma_of_row[rows]] + 1  # from 0 on: -1 is where it is not known
        pairs = frame_of_row[rows].astype(np.int64) * (len(names) + 1) + domain
        frame, domain = np.divmod(ascending(pairs), len(names) + 1)
        np.add.at(signature, frame, names[domain - 1])
    return signature


def sharing_matrix(
    snapshot: Snapshot, prediction: Prediction, group_of_mm: npt.NDArray[np.int64], groups: int
) -> npt.NDArray[np.int64]:
    """How many merged pages (stable nodes) two groups have in common (i64, groups × groups).

    ``group_of_mm`` (i64 per row of ``snapshot.processes``) is -1 for an mm in no group. On the
    diagonal: nodes on which the group itself has at least two mappings.
    """
    matrix = np.zeros((groups, groups), np.int64)
    group_of_vma = group_of_mm[snapshot.vmas["mm_id"].to_numpy()]
    vma_of_row, freed = snapshot.mappings["vma_id"].to_numpy(), prediction.freed
    for rows in rows_by_content(freed.content, freed.frame_of_row, prediction.empty):
        group, stable_node = group_of_vma[vma_of_row[rows]], prediction.stable_node[rows]
        inside = (stable_node >= 0) & (group >= 0)
        nodes = pd.factorize(stable_node[inside])[0]
        key, times = np.unique(nodes * groups + group[inside], return_counts=True)
        node, member = key // groups, key % groups
        np.add.at(matrix, (member[times > 1], member[times > 1]), 1)
        for other in range(groups):
            common = np.isin(node, node[member == other], kind="table")
            matrix[other] += np.where(
                np.arange(groups) == other, 0, np.bincount(member[common], minlength=groups)
            )
    return matrix

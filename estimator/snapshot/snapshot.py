"""The tables of one snapshot, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Ints, Numbers, take
from estimator.snapshot.schema import SCHEMAS
from estimator.snapshot.stored_table import StoredTable, in_pieces


@dataclass(frozen=True)
class Snapshot:
    """The tables of one snapshot, as DataFrames with the columns of ``columns_of``.

    ``frames.hash`` is nullable (``UInt64``). ``stable_nodes`` lacks the nested column ``items``:
    the items stand flat in ``stable_items`` with the columns node_id, mm_id, address, age,
    checksum. ``info`` is the content of ``snapshot.json``. ``mappings`` and ``frames``
    may be a ``StoredTable`` each, which is used alike and stays in its file. ``other_mappings``,
    ``other_frames``: of shared memory, hugetlb and files, where asked for; None where not.
    """

    info: dict[str, Any]
    processes: pd.DataFrame
    vmas: pd.DataFrame
    mappings: pd.DataFrame
    frames: pd.DataFrame
    stable_nodes: pd.DataFrame = field(repr=False)
    stable_items: pd.DataFrame = field(repr=False)
    other_mappings: pd.DataFrame | None = field(default=None, repr=False)
    other_frames: pd.DataFrame | None = field(default=None, repr=False)

    def _repr_html_(self) -> str:
        """How much there is of everything, in a notebook."""
        rows = {name: len(getattr(self, name)) for name in SCHEMAS}
        return pd.Series(rows, name=f"Linux {self.info['kernel']['release']}").to_frame().to_html()


def others_alone(snapshot: Snapshot) -> Snapshot | None:
    """``snapshot`` with the rows of ``other_mappings`` and ``other_frames`` in place of the rest.

    None where there are none.
    """
    if snapshot.other_mappings is None or snapshot.other_frames is None:
        return None
    return replace(snapshot, mappings=snapshot.other_mappings, frames=snapshot.other_frames)


def mapping_mm(snapshot: Snapshot) -> npt.NDArray[np.uint32]:
    """The mm_id of every mapping (u32 per row of ``snapshot.mappings``)."""
    mm_of_vma: npt.NDArray[np.uint32] = snapshot.vmas["mm_id"].to_numpy()
    return take(mm_of_vma, snapshot.mappings["vma_id"].to_numpy())


class RowsOfVmas:
    """How many rows of mappings each of some ``vmas`` has, counted a piece at a time."""

    def __init__(self, vmas: int) -> None:
        self._rows = np.zeros(vmas + 1, np.int64)

    def add(self, vma_id: npt.NDArray[np.uint32]) -> None:
        """The next rows, at least one."""
        begins = np.append(0, np.flatnonzero(vma_id[1:] != vma_id[:-1]) + 1)
        self._rows[vma_id[begins].astype(np.int64) + 1] += np.diff(np.append(begins, len(vma_id)))

    def starts(self, mappings: pd.DataFrame | StoredTable) -> Ints:
        """See ``vma_starts``; a table whose rows can't change keeps it."""
        starts = np.cumsum(self._rows)
        if isinstance(mappings, StoredTable):
            mappings.vma_starts = starts
        return starts


def vma_starts(snapshot: Snapshot) -> Ints:
    """The first row of ``snapshot.mappings`` of every VMA, and one past the end (i64)."""
    if (starts := _kept_starts(snapshot.mappings)) is not None:
        return starts
    rows = RowsOfVmas(len(snapshot.vmas))
    for _, some in in_pieces(snapshot.mappings, ("vma_id",)):
        rows.add(some["vma_id"].to_numpy())
    return rows.starts(snapshot.mappings)


def _kept_starts(mappings: pd.DataFrame | StoredTable) -> Ints | None:
    return mappings.vma_starts if isinstance(mappings, StoredTable) else None


def vma_of(starts: Ints, rows: Ints | Numbers) -> Ints:
    """The vma_id of ``rows`` of mappings, in any order; ``starts``: ``vma_starts``."""
    found: Ints = np.searchsorted(starts, rows, side="right") - 1
    return found


def vmas_of(starts: Ints, rows: Ints | Numbers) -> Ints:
    """The vma_id of ``rows`` of mappings, which ascend; ``starts``: ``vma_starts``."""
    return np.repeat(np.arange(len(starts) - 1), np.diff(np.searchsorted(rows, starts)))

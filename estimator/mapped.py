"""Pages mapped, as read from page tables; and the tables of a snapshot made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.facts import FrameFlag, Unknown
from estimator.hashing import zero_hash

Words = npt.NDArray[np.uint64]
Columns = dict[str, npt.NDArray[Any]]

FRAME_FACTS = {
    "ok": np.bool_,
    "anonymous": np.bool_,
    "hash": np.uint64,
    "unknown": np.uint8,
    "flags": np.uint32,
    "order": np.uint8,
    "head_pfn": np.uint64,
    "node": np.uint16,
    "mapcount": np.int32,
    "refcount": np.int32,
    "folio_mapcount": np.int32,
}
"""What is found out about a frame. ``ok``: it was read; ``anonymous``: it goes in the snapshot."""

_SPARSE = 16  # a table of all PFNs is made if one in so many is used


@dataclass(frozen=True)
class Mapped:
    """One row per page mapped, by VMA and address.

    ``vma_id``, ``page_index``: u32. ``pfn``: u64. ``flags``: u8, ``MappingFlag``. ``counts``: of
    the pages that map nothing, u64 per VMA by column of ``vmas``.
    """

    vma_id: npt.NDArray[np.uint32]
    page_index: npt.NDArray[np.uint32]
    pfn: Words
    flags: npt.NDArray[np.uint8]
    counts: dict[str, Words]

    @property
    def key(self) -> Words:
        """VMA and page as one ascending number."""
        return (self.vma_id.astype(np.uint64) << np.uint64(32)) | self.page_index

    def keep(self, rows: npt.NDArray[np.bool_]) -> Mapped:
        """The rows where ``rows`` is true."""
        return Mapped(
            self.vma_id[rows],
            self.page_index[rows],
            self.pfn[rows],
            self.flags[rows],
            self.counts,
        )

    def of_vmas(self, vmas: npt.NDArray[np.bool_]) -> Mapped:
        """The rows of the VMAs where ``vmas`` is true; these are numbered anew."""
        kept = self.keep(vmas[self.vma_id])
        number = (np.cumsum(vmas) - 1).astype(np.uint32)
        counts = {name: pages[vmas] for name, pages in self.counts.items()}
        return Mapped(number[kept.vma_id], kept.page_index, kept.pfn, kept.flags, counts)


def make_tables(
    vmas: pd.DataFrame, mapped: Mapped, pfns: Words, facts: Columns, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``mappings`` and ``frames``: of all that is mapped, what is anonymous or KSM's.

    ``facts``: columns of ``FRAME_FACTS`` for the frames ``pfns`` (ascending), among them all of
    ``mapped``. The counts are added to the table ``vmas``.
    """
    used = np.isin(pfns, distinct(mapped.pfn), assume_unique=True)
    if not used.all():
        pfns, facts = pfns[used], {name: column[used] for name, column in facts.items()}
    for name, counts in mapped.counts.items():
        vmas[name] = counts
    row = rows_of(pfns, mapped.pfn)
    ok = facts["ok"]
    if not ok.all():
        lost = np.bincount(mapped.vma_id[~ok[row]], minlength=len(vmas))
        vmas["unknown_pages"] += lost.astype(np.uint64)
    keep = ok & facts["anonymous"]
    frame_id = (np.cumsum(keep) - 1).astype(np.uint32)
    kept = keep[row]
    mappings = {
        "vma_id": mapped.vma_id[kept],
        "page_index": mapped.page_index[kept],
        "frame_id": frame_id[row[kept]],
        "flags": mapped.flags[kept],
    }
    frames: dict[str, Any] = {"pfn": pfns[keep]}
    frames |= {n: v[keep] for n, v in facts.items() if n not in ("ok", "anonymous")}
    hashed = frames["unknown"] == Unknown.HASHED
    zero = hashed & (frames["hash"] == zero_hash(seed))
    frames["flags"][zero] |= np.uint32(FrameFlag.ZERO)
    frames["hash"] = pd.arrays.IntegerArray(frames["hash"], ~hashed)
    return pd.DataFrame(mappings, copy=False), pd.DataFrame(frames, copy=False)


def distinct(pfns: Words) -> Words:
    """The distinct PFNs, ascending."""
    first, span = _span(pfns)
    if span > _SPARSE * len(pfns):
        ordered = np.sort(pfns)
        return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(pfns) else ordered
    used = np.zeros(span, np.bool_)
    used[(pfns - np.uint64(first)).view(np.int64)] = True
    return np.flatnonzero(used).view(np.uint64) + np.uint64(first)


def rows_of(pfns: Words, wanted: Words) -> npt.NDArray[np.int64]:
    """The row in ``pfns`` (ascending, distinct) of each of ``wanted``, all of them in it."""
    first, span = _span(pfns)
    if span > _SPARSE * max(len(wanted), 1):
        return np.searchsorted(pfns, wanted)
    row = np.zeros(span, np.uint32)
    row[(pfns - np.uint64(first)).view(np.int64)] = np.arange(len(pfns), dtype=np.uint32)
    return row[(wanted - np.uint64(first)).view(np.int64)].astype(np.int64)


def _span(pfns: Words) -> tuple[int, int]:
    if not len(pfns):
        return 0, 0
    return int(pfns.min()), int(pfns.max()) - int(pfns.min()) + 1

"""Pages mapped, as read from page tables; and the tables of a snapshot made from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from estimator.arrays import Words, move_up
from estimator.collect.hashing import zero_hash
from estimator.collect.mappings import Columns, Mapped, distinct, look_up, rows_of
from estimator.snapshot.flags import FrameFlag, Unknown
from estimator.snapshot.schema import SCHEMAS, not_known_batches

_NO_FRAME = np.uint32(0xFFFF_FFFF)


def make_tables(
    vmas: pd.DataFrame, mapped: Mapped, pfns: Words, facts: Columns, seed: int, page_bytes: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``mappings`` and ``frames``: of all that is mapped, what is anonymous or KSM's.

    ``facts``: columns of ``FRAME_FACTS`` for the frames ``pfns``, the distinct ones of ``mapped``,
    ascending. The counts are added to the table ``vmas``. The arrays of ``mapped``, ``pfns`` and
    ``facts`` are used up: the tables are made in their memory.
    """
    for name, counts in mapped.counts.items():
        vmas[name] = counts
    keep = facts["ok"] & (facts["kind"] != 0)
    frame_id = np.where(keep, np.cumsum(keep, dtype=np.uint32) - np.uint32(1), _NO_FRAME)
    frame_of = look_up(pfns, frame_id, mapped.pfn)
    kept = frame_of != _NO_FRAME
    ok = facts["ok"]
    if not ok.all():
        gone = np.flatnonzero(~kept)
        lost = mapped.vma_id[gone[~ok[rows_of(pfns, mapped.pfn[gone])]]]
        vmas["unknown_pages"] += np.bincount(lost, minlength=len(vmas)).astype(np.uint64)
    mappings = {
        "vma_id": move_up(mapped.vma_id, kept),
        "page_index": move_up(mapped.page_index, kept),
        "frame_id": move_up(frame_of, kept),
        "flags": move_up(mapped.flags, kept),
    }
    frames: dict[str, Any] = {"pfn": move_up(pfns, keep)}
    frames |= {n: move_up(v, keep) for n, v in facts.items() if n != "ok"}
    hashed = frames["unknown"] == Unknown.HASHED
    zero = hashed & (frames["hash"] == zero_hash(seed, page_bytes))
    frames["flags"][zero] |= np.uint32(FrameFlag.ZERO)
    frames["hash"] = pd.arrays.IntegerArray(frames["hash"], ~hashed)
    frames["batch_references"] = not_known_batches(len(frames["pfn"]))
    in_order = {name: frames[name] for name in SCHEMAS["frames"].names}
    return pd.DataFrame(mappings, copy=False), pd.DataFrame(in_order, copy=False)


def only_mapped(mapped: Mapped, pfns: Words, facts: Columns) -> tuple[Words, Columns]:
    """Of the frames ``pfns`` with their ``facts``, those that ``mapped`` has."""
    used = np.isin(pfns, distinct(mapped.pfn), assume_unique=True)
    return pfns[used], {name: column[used] for name, column in facts.items()}

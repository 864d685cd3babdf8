"""Snapshots of format 1, as versions before 0.2 wrote them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from estimator.snapshot.flags import FrameKind
from estimator.snapshot.schema import I32, SCHEMAS, U32
from estimator.snapshot.snapshot import Snapshot

_KSM = np.uint32(2)  # PageKsm(), a bit of ``frames.flags``
_OTHER = {
    ("processes", "scan_order"): pa.field("scan_order", I32, nullable=False),
    ("mappings", "page_index"): pa.field("page_index", U32, nullable=False),
    ("frames", "kind"): None,
    ("frames", "batch_references"): None,
}

FORMAT_1_SCHEMAS: dict[str, pa.Schema] = {
    name: pa.schema(
        field for column in schema if (field := _OTHER.get((name, column.name), column)) is not None
    )
    for name, schema in SCHEMAS.items()
}


def from_format_1(snapshot: Snapshot) -> Snapshot:
    """``snapshot``, read with ``FORMAT_1_SCHEMAS``, as one of the present format.

    --procfs wrote -1 as the scan_order of every process: it was not known.
    """
    frames, mappings, processes = snapshot.frames, snapshot.mappings, snapshot.processes
    flags = frames["flags"].to_numpy()
    kind = np.where(flags & _KSM, FrameKind.KSM, FrameKind.ANONYMOUS).astype(np.uint8)
    order = processes["scan_order"].to_numpy()
    not_known = (order < 0) & (snapshot.info.get("source", {}).get("kind") == "procfs")
    none = np.zeros(len(frames), np.uint8)
    batches = pd.arrays.IntegerArray(none, np.ones(len(none), np.bool_))
    frames = frames.assign(flags=flags & ~_KSM, kind=kind, batch_references=batches)
    return replace(
        snapshot,
        info=_with_features(snapshot.info),
        frames=frames[SCHEMAS["frames"].names],
        mappings=mappings.assign(page_index=mappings["page_index"].to_numpy(np.uint64)),
        processes=processes.assign(scan_order=pd.arrays.IntegerArray(order, not_known)),
    )


def _with_features(info: dict[str, Any]) -> dict[str, Any]:
    """``info`` with the features that were not asked for yet, where its kernel is too old for them.

    Of a newer one they stay unknown: ``Rules`` then asks for a new snapshot.
    """
    features, release = info.get("features"), str(info.get("kernel", {}).get("release"))
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if not isinstance(features, Mapping) or not numbers:
        return info
    if (int(numbers[1]), int(numbers[2])) >= (7, 3):
        return info
    return info | {"features": {"break_cow_forgets": False} | dict(features)}

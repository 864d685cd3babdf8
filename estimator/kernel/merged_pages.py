"""What KSM has merged already, in the tables of a snapshot."""

from __future__ import annotations

from typing import Any

import numpy as np

from estimator.arrays import Columns, Words, find, of_rows, page_keys
from estimator.collect.tables import Table
from estimator.packed import Packed, side_by_side
from estimator.snapshot.flags import MappingFlag


def frame_ids(pfns: Packed, wanted: Words) -> Any:
    """frame_id of the PFNs ``wanted``, null where no process maps the frame."""
    numbers, found, begin = np.zeros(len(wanted), np.uint32), np.zeros(len(wanted), np.bool_), 0
    for piece in pfns.pieces() if len(wanted) else ():
        row, here = find(piece, wanted)
        numbers[here] = row + begin
        found |= here
        begin += len(piece)
    return np.ma.MaskedArray(numbers, ~found)


def mark_merged(
    mappings: Table,
    vmas: Columns,
    nodes: Columns,
    items: Columns,
    page_shift: int,
) -> None:
    """Set MappingFlag.MERGED where the rmap_item of a mapping is on the live node of its frame."""
    items = of_rows(items, nodes["live"][items["node_id"]])
    if not len(items["node_id"]):
        return
    page = np.uint64(page_shift)
    start = page_keys(vmas["mm_id"], vmas["start"] >> page)
    wanted = page_keys(items["mm_id"], items["address"] >> page)
    frame = np.ma.filled(nodes["frame_id"].astype(np.int64), -1)[items["node_id"]]
    order = np.argsort(wanted, kind="stable")
    wanted, frame = wanted[order], frame[order]
    for number, rows in enumerate(side_by_side(mappings)):
        key = start[rows["vma_id"]] + rows["page_index"]
        near = slice(*np.searchsorted(wanted, [key[0], key[-1] + np.uint64(1)]))
        row, found = find(key, wanted[near])
        same = rows["frame_id"][row] == frame[near][found]
        if same.any():
            rows["flags"][row[same]] |= np.uint8(MappingFlag.MERGED)
            mappings["flags"].change(number, rows["flags"])

"""Whether the rows of a snapshot say what their order and numbers promise: asked at every opening.

Other programs read and write Parquet files too. Rows in another order, or with other numbers, would
give another prediction without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import find, pieces
from estimator.errors import TargetError
from estimator.snapshot.flags import AHEAD, OLD_VISITS, SKIPPING_SCANS, FrameKind, Unknown
from estimator.snapshot.info import wrong_values
from estimator.snapshot.schema import OPTIONAL
from estimator.snapshot.snapshot import RowsOfVmas, Snapshot, others_alone
from estimator.snapshot.stored_table import in_pieces

_MOST_VISITS = OLD_VISITS + SKIPPING_SCANS - 1
_STRUCTS = ("ksm_rmap_item", "ksm_stable_node", "ksm_mm_slot")
_ANONYMOUS = (FrameKind.ANONYMOUS, FrameKind.KSM)
_OTHERS = (FrameKind.SHMEM, FrameKind.HUGETLB, FrameKind.FILE)


def check_snapshot(name: str, snapshot: Snapshot) -> None:
    """Raise TargetError, with ``name``, if numbers, order or ``info`` are those of no collection.

    Every column of the mappings and frames is looked at, once: TargetError too where one can't be
    read.
    """
    for wrong in _wrong(snapshot):
        raise TargetError(
            f"{name} is damaged or was changed: {wrong}",
            hint="use it as it was written (the order of its rows has a meaning), or collect again",
        )


def _wrong(snapshot: Snapshot) -> Iterator[str]:
    yield from wrong_values(snapshot.info)
    yield from _wrong_sizes(snapshot.info)
    yield from _wrong_processes(snapshot)
    yield from _wrong_vmas(snapshot)
    with ThreadPoolExecutor(1) as beside:
        frames = beside.submit(lambda: list(_wrong_frames(snapshot, _ANONYMOUS)))
        yield from _wrong_mappings(snapshot)
        yield from frames.result()
    yield from _wrong_nodes(snapshot)
    if others := others_alone(snapshot):
        yield from _wrong_mappings(others)
        yield from _wrong_frames(others, _OTHERS)
        ours, theirs = (each.frames["pfn"].to_numpy() for each in (snapshot, others))
        if any(find(ours, theirs[piece])[1].any() for piece in pieces(len(theirs))):
            yield "frames are anonymous and not anonymous at once"


def _wrong_sizes(info: Mapping[str, Any]) -> Iterator[str]:
    for struct in _STRUCTS:
        size = info["sizes"].get(struct)
        if not isinstance(size, int) or not 0 < size < info["kernel"]["page_size"]:
            yield f"struct {struct} can't have {size} bytes"


def _wrong_processes(snapshot: Snapshot) -> Iterator[str]:
    processes = snapshot.processes
    if not _counts_up(processes["mm_id"].to_numpy()):
        yield "mm_id is not the number of the row in processes"
    order = processes["scan_order"].to_numpy(np.int32, na_value=-1)
    listed = order[: np.count_nonzero(order >= 0)]
    if (listed < 0).any() or not _ascends(listed):
        yield "processes are not in ksmd's order"


def _wrong_vmas(snapshot: Snapshot) -> Iterator[str]:
    vmas = snapshot.vmas
    mm, start, end = (vmas[name].to_numpy() for name in ("mm_id", "start", "end"))
    if not _counts_up(vmas["vma_id"].to_numpy()):
        yield "vma_id is not the number of the row in vmas"
    if (mm >= len(snapshot.processes)).any():
        yield "vmas name processes that are not there"
    if (start >= end).any():
        yield "vmas end before they start"
    same = mm[1:] == mm[:-1]
    if (mm[1:] < mm[:-1]).any() or (same & (start[1:] < end[:-1])).any():
        yield "vmas are not in the order of mm_id and start"


def _wrong_mappings(snapshot: Snapshot) -> Iterator[str]:
    bytes_ = (snapshot.vmas["end"] - snapshot.vmas["start"]).to_numpy()
    pages = bytes_ // np.uint64(snapshot.info["kernel"]["page_size"])
    before: Sequence[npt.NDArray[Any]] = (np.zeros(0, np.uint32), np.zeros(0, np.uint64))
    rows = RowsOfVmas(len(pages))
    for _, some in in_pieces(snapshot.mappings, [*map(str, snapshot.mappings)]):
        v, p = (some[name].to_numpy() for name in ("vma_id", "page_index"))
        if int(v.max(initial=0)) >= len(pages):
            yield "mappings name vmas that are not there"
        rows.add(v)
        if int(some["frame_id"].max()) >= len(snapshot.frames):
            yield "mappings name frames that are not there"
        if "visits" in some and (some["visits"].to_numpy() & ~np.uint8(AHEAD)).max() > _MOST_VISITS:
            yield "mappings were visited more often than is told apart"
        v, p = (np.append(last, now) for last, now in zip(before, (v, p), strict=True))
        same = v[1:] == v[:-1]
        if ((v[1:] < v[:-1]) | (same & (p[1:] <= p[:-1]))).any():
            yield "mappings are not in the order of vma_id and page_index"
        last = np.append(np.flatnonzero(~same), len(v) - 1)  # of a vma, so far: its greatest page
        if (p[last] >= pages[v[last]]).any():
            yield "mappings lie beyond the end of their vma"
        before = v[-1:], p[-1:]
    rows.starts(snapshot.mappings)


def _wrong_frames(snapshot: Snapshot, kinds: tuple[FrameKind, ...]) -> Iterator[str]:
    names = [str(name) for name in snapshot.frames]
    optional = [name for name in names if name in OPTIONAL["frames"].names]
    pieces = sum(name.startswith("piece_hash_") for name in names)
    if pieces and not _fits(snapshot.info, pieces):
        yield "the pieces of frames are not as snapshot.json says"
    before = np.zeros(0, np.uint64)
    for _, some in in_pieces(snapshot.frames, names):
        pfn, kind, unknown = (some[name].to_numpy() for name in ("pfn", "kind", "unknown"))
        if not _ascends(np.append(before, pfn)):
            yield "frames are not in the order of pfn"
        before = pfn[-1:]
        if len(kind) and not kinds[0] <= kind.min() <= kind.max() <= kinds[-1]:
            yield "frames are of a kind that is not known here"
        if int(unknown.max(initial=0)) > max(Unknown):
            yield "frames are unknown for reasons that are not known here"
        without = unknown != Unknown.HASHED
        if not np.array_equal(some["hash"].isna().to_numpy(), without):
            yield "frames have no hash and no reason for that, or both"
        for name in optional:
            if not np.array_equal(some[name].isna().to_numpy(), without):
                yield f"frames have a hash and no {name}, or the other way round"
        if snapshot.info.get("without_contents") and not without.all():
            yield "frames have hashes, and snapshot.json says that contents were left out"
        if int(some["order"].to_numpy().max(initial=0)) >= 64:
            yield "folios are larger than any memory"


def _fits(info: Mapping[str, Any], pieces: int) -> bool:
    """Whether so many pieces make a page."""
    size, zero = info.get("piece_bytes"), info.get("zero_piece_hash")
    if not (isinstance(size, int) and isinstance(zero, int)):
        return False
    whole: bool = size * pieces == info["kernel"]["page_size"]
    return whole and 0 <= zero < 1 << 64


def _wrong_nodes(snapshot: Snapshot) -> Iterator[str]:
    nodes, items = snapshot.stable_nodes, snapshot.stable_items
    if not _counts_up(nodes["node_id"].to_numpy()):
        yield "node_id is not the number of the row in stable_nodes"
    if (nodes["frame_id"].dropna().to_numpy(np.int64) >= len(snapshot.frames)).any():
        yield "stable nodes name frames that are not there"
    if (items["mm_id"].to_numpy() >= len(snapshot.processes)).any():
        yield "items of stable nodes name processes that are not there"


def _counts_up(numbers: npt.NDArray[Any]) -> bool:
    return np.array_equal(numbers, np.arange(len(numbers)))


def _ascends(numbers: npt.NDArray[Any]) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())

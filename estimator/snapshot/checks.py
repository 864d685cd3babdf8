"""Whether the rows of a snapshot say what their order and numbers promise: asked at every opening.

Other programs read and write Parquet files too. Rows in another order, or with other numbers, would
give another prediction without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import pieces
from estimator.errors import TargetError
from estimator.snapshot.flags import FrameKind, Unknown
from estimator.snapshot.format import CONTENTS, PAGE_SIZES
from estimator.snapshot.schema import OPTIONAL
from estimator.snapshot.snapshot import Snapshot, others_alone

_STRUCTS = ("ksm_rmap_item", "ksm_stable_node", "ksm_mm_slot")
_ANONYMOUS = (FrameKind.ANONYMOUS, FrameKind.KSM)
_OTHERS = (FrameKind.SHMEM, FrameKind.HUGETLB, FrameKind.FILE)
_SECTIONS = ("kernel", "source", "hash", "ksm", "sizes", "features", "unknown")


def check_snapshot(name: str, snapshot: Snapshot) -> None:
    """Raise TargetError, with ``name``, if numbers, order or ``info`` are those of no collection.

    Linear in the number of rows: 10 million mappings take some 0.1 s.
    """
    for wrong in _wrong(snapshot):
        raise TargetError(
            f"{name} is damaged or was changed: {wrong}",
            hint="use it as it was written (the order of its rows has a meaning), or collect again",
        )


def _wrong(snapshot: Snapshot) -> Iterator[str]:
    yield from _wrong_info(snapshot.info)
    yield from _wrong_processes(snapshot)
    yield from _wrong_vmas(snapshot)
    yield from _wrong_mappings(snapshot)
    yield from _wrong_frames(snapshot, _ANONYMOUS)
    yield from _wrong_nodes(snapshot)
    if others := others_alone(snapshot):
        yield from _wrong_mappings(others)
        yield from _wrong_frames(others, _OTHERS)
        if np.isin(others.frames["pfn"], snapshot.frames["pfn"]).any():
            yield "frames are anonymous and not anonymous at once"


def _wrong_info(info: Mapping[str, Any]) -> Iterator[str]:
    for section in _SECTIONS:
        if not isinstance(info.get(section), dict):
            yield f"snapshot.json has no {section!r}"
    if info["kernel"].get("page_size") not in PAGE_SIZES:
        yield f"no kernel has pages of {info['kernel'].get('page_size')} bytes"
    for struct in _STRUCTS:
        size = info["sizes"].get(struct)
        if not _is_number(size) or not 0 < size < info["kernel"]["page_size"]:
            yield f"struct {struct} can't have {size} bytes"
    counters = info["ksm"].get("counters")
    if not isinstance(counters, dict) or not all(map(_is_number, counters.values())):
        yield "snapshot.json has no counters of ksmd"
    for name, value in info["ksm"].items():
        if name != "counters" and not (value is None or _is_number(value)):
            yield f"ksmd can't have {name} = {value}"
    if not isinstance(info.get("without_contents", False), bool):
        yield f"contents can't be left out {info['without_contents']}"
    if info.get("contents", CONTENTS[0]) not in CONTENTS:
        yield f"there are no contents of {info['contents']} memory"
    if not isinstance(info["source"].get("warnings", []), list):
        yield "snapshot.json has no warnings of its source"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
    columns = ("vma_id", "page_index", "frame_id")
    vma, page, frame = (snapshot.mappings[name].to_numpy() for name in columns)
    bytes_ = (snapshot.vmas["end"] - snapshot.vmas["start"]).to_numpy()
    pages = bytes_ // np.uint64(snapshot.info["kernel"]["page_size"])
    for piece in pieces(len(vma)):
        here = slice(max(piece.start - 1, 0), piece.stop)  # and the last row of the piece before
        v, p = vma[here], page[here]
        if int(v.max()) >= len(pages):
            yield "mappings name vmas that are not there"
        if int(frame[here].max()) >= len(snapshot.frames):
            yield "mappings name frames that are not there"
        if (p >= pages[v]).any():
            yield "mappings lie beyond the end of their vma"
        if ((v[1:] < v[:-1]) | ((v[1:] == v[:-1]) & (p[1:] <= p[:-1]))).any():
            yield "mappings are not in the order of vma_id and page_index"


def _wrong_frames(snapshot: Snapshot, kinds: tuple[FrameKind, ...]) -> Iterator[str]:
    frames = snapshot.frames
    unknown = frames["unknown"].to_numpy()
    if not _ascends(frames["pfn"].to_numpy()):
        yield "frames are not in the order of pfn"
    kind = frames["kind"].to_numpy()
    if len(kind) and not kinds[0] <= kind.min() <= kind.max() <= kinds[-1]:
        yield "frames are of a kind that is not known here"
    if int(unknown.max(initial=0)) > max(Unknown):
        yield "frames are unknown for reasons that are not known here"
    if not np.array_equal(frames["hash"].isna().to_numpy(), unknown != Unknown.HASHED):
        yield "frames have no hash and no reason for that, or both"
    for name in frames.columns.intersection(OPTIONAL["frames"].names):
        if not np.array_equal(frames[name].isna().to_numpy(), unknown != Unknown.HASHED):
            yield f"frames have a hash and no {name}, or the other way round"
    pieces = sum(str(name).startswith("piece_hash_") for name in frames)
    if pieces and not _fits(snapshot.info, pieces):
        yield "the pieces of frames are not as snapshot.json says"
    if snapshot.info.get("without_contents") and (unknown == Unknown.HASHED).any():
        yield "frames have hashes, and snapshot.json says that contents were left out"
    if int(frames["order"].max() if len(frames) else 0) >= 64:
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

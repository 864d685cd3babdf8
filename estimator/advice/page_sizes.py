"""What pages of other sizes would share: larger ones, and the pieces of a page.

A larger page is an aligned group of today's pages in virtual space, as such a kernel would lay them
out. A group is whole if all its pages are present in one VMA, visited by ksmd and known. What is
not whole counts as nothing: a kernel with larger pages would have it present and, mostly,
different. Pieces are of today's frames, and known where they were asked for
(``collect --pieces``). Two groups or pieces share if they are equal byte for byte and do not lie on
the same frames already.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.arrays import Ints, Words
from estimator.ksm.contents import content_keys
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot

PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10, 2 << 20)
"""Bytes: of x86_64 and arm64, and a huge page."""
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)
_COLUMNS = ["page_bytes", "whole_bytes", "bytes_saved", "zero_bytes"]


def page_sizes(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame:
    """One row per size, smallest first: pieces where they are known, then ``PAGE_SIZES``.

    Columns: page_bytes; whole_bytes, what lies in whole pages of that size (frames that several map
    count once); bytes_saved, if of the equal ones one stayed; zero_bytes, of these zero-filled.
    """
    sizes = [*_pieces(snapshot, prediction), *_groups(snapshot, prediction)]
    return pd.DataFrame(sizes, columns=_COLUMNS)


def _groups(snapshot: Snapshot, prediction: Prediction) -> Iterator[tuple[int, int, int, int]]:
    base = page_bytes(snapshot)
    rows = np.flatnonzero(prediction.scanned)
    table = snapshot.mappings
    vma = table["vma_id"].to_numpy()[rows]
    start = snapshot.vmas["start"].to_numpy() // np.uint64(base)
    page = start[vma] + table["page_index"].to_numpy()[rows]
    frame = table["frame_id"].to_numpy()[rows]
    content = content_keys(snapshot.frames)[frame]
    zero = _is_zero(snapshot)[frame]
    for size in PAGE_SIZES:
        if size < base:
            continue
        pages = size // base
        first = _whole_groups(vma, page, pages)
        _, distinct = np.unique(_together(frame.astype(np.uint64), first, pages), return_index=True)
        first = first[distinct]
        zeroes = np.append(0, np.cumsum(zero))
        empty = zeroes[first + pages] - zeroes[first] == pages
        yield _row(size, _together(content, first, pages), empty)


def _pieces(snapshot: Snapshot, prediction: Prediction) -> Iterator[tuple[int, int, int, int]]:
    names = [name for name in snapshot.frames if str(name).startswith("piece_hash_")]
    if not names:
        return
    frame = np.unique(snapshot.mappings["frame_id"].to_numpy()[prediction.scanned])
    size = int(snapshot.info["piece_bytes"])
    content = np.column_stack(
        [snapshot.frames[name].to_numpy(np.uint64, na_value=0)[frame] for name in names]
    ).reshape(-1)
    empty = content == np.uint64(snapshot.info["zero_piece_hash"])
    while size < page_bytes(snapshot):
        yield _row(size, content, empty)
        first = np.arange(0, len(content), 2)
        content, empty = _together(content, first, 2), empty[0::2] & empty[1::2]
        size *= 2


def _row(size: int, content: Words, zero: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """As ``page_sizes`` has it, of pages of ``size`` with these contents."""
    saved = len(content) - len(np.unique(content))
    return size, len(content) * size, saved * size, max(int(zero.sum()) - 1, 0) * size


def _is_zero(snapshot: Snapshot) -> npt.NDArray[np.bool_]:
    zero: npt.NDArray[np.bool_] = (snapshot.frames["flags"].to_numpy() & FrameFlag.ZERO) != 0
    return zero


def _whole_groups(vma: Ints, page: Words, pages: int) -> Ints:
    """Where the rows of each whole group begin; ``pages`` of them follow one another."""
    group = page // np.uint64(pages)
    if not len(group):
        return np.zeros(0, np.int64)
    new = np.append(True, (group[1:] != group[:-1]) | (vma[1:] != vma[:-1]))
    begins = np.flatnonzero(new)
    lengths = np.diff(np.append(begins, len(group)))
    whole: Ints = begins[lengths == pages]
    return whole


def _together(words: Words, first: Ints, pages: int) -> Words:
    """One number for the ``pages`` words from each of ``first`` on, in their order (u64)."""
    found = np.zeros(len(first), np.uint64)
    for number in range(pages):
        found = (found ^ words[first + number]) * _MIX
        found ^= found >> np.uint64(29)
    return found

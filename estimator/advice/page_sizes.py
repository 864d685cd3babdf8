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

from estimator.advice.attribution import page_bytes, scanned_frames
from estimator.arrays import Ints, Mask, Words, ascending, distinct, pieces
from estimator.ksm.content_parts import rows_by_number
from estimator.ksm.contents import content_keys
from estimator.ksm.frames import frames_with
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.stored_table import in_pieces

PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10, 2 << 20)
"""Bytes: of x86_64 and arm64, and a huge page."""
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)
_PART_BITS = 3
_TO_PART = np.uint64(64 - _PART_BITS)
_COLUMNS = ["page_bytes", "whole_bytes", "bytes_saved", "zero_bytes"]


def page_sizes(snapshot: Snapshot, prediction: Prediction) -> pd.DataFrame:
    """One row per size, smallest first: pieces where they are known, then ``PAGE_SIZES``.

    Columns: page_bytes; whole_bytes, what lies in whole pages of that size (frames that several map
    count once); bytes_saved, if of the equal ones one stayed; zero_bytes, of these zero-filled.
    """
    sizes = [*_pieces(snapshot, prediction), *_groups(snapshot, prediction)]
    return pd.DataFrame(sizes, columns=_COLUMNS)


def _groups(snapshot: Snapshot, prediction: Prediction) -> Iterator[tuple[int, int, int, int]]:
    base, tagged = page_bytes(snapshot), frames_with(snapshot.frames, FrameFlag.MTE)
    keys = content_keys(snapshot.frames, tagged, prediction.empty)
    for size in PAGE_SIZES:
        pages = size // base
        if pages == 1:
            yield _single(snapshot, prediction, keys)
        elif pages:
            yield _grouped(snapshot, prediction, keys, pages)


def _single(snapshot: Snapshot, prediction: Prediction, keys: Words) -> tuple[int, int, int, int]:
    zero = frames_with(snapshot.frames, FrameFlag.ZERO)
    frames = scanned_frames(snapshot, prediction)
    pages = zero_pages = contents = 0
    for piece in pieces(len(keys)):
        pages += int(np.count_nonzero(frames[piece]))
        zero_pages += int(np.count_nonzero(zero[piece] & frames[piece]))
    for part in range(1 << _PART_BITS):
        here = [
            ascending(keys[piece][frames[piece] & (keys[piece] >> _TO_PART == part)])
            for piece in pieces(len(keys))
        ]
        contents += distinct(np.concatenate([keys[:0], *here]))
    size = page_bytes(snapshot)
    return size, pages * size, (pages - contents) * size, max(zero_pages - 1, 0) * size


def _grouped(
    snapshot: Snapshot, prediction: Prediction, keys: Words, pages: int
) -> tuple[int, int, int, int]:
    """Each group of ``pages`` that lie on other frames than those before, in parts."""
    zero_frames = frames_with(snapshot.frames, FrameFlag.ZERO)
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    most, whole = len(frame_of_row) // pages, 0
    first, frames = (prediction.empty(most, dtype) for dtype in (np.uint32, np.uint64))
    for rows in _whole_groups(snapshot, prediction, pages):
        here = slice(whole, whole + len(rows))
        first[here], frames[here] = rows, _together(frame_of_row, rows, pages)
        whole = here.stop
    contents = _Contents(prediction.empty(whole, np.uint64))
    for part in rows_by_number(frames[:whole], prediction.empty):
        _, new = np.unique(frames[part], return_index=True)
        rows = first[part[new]].astype(np.int64)
        zero = np.ones(len(rows), np.bool_)
        for number in range(pages):
            zero &= zero_frames[frame_of_row[rows + number]]
        contents.add(_together(frame_of_row, rows, pages, keys), zero)
    return contents.row(pages * page_bytes(snapshot))


def _pieces(snapshot: Snapshot, prediction: Prediction) -> Iterator[tuple[int, int, int, int]]:
    names = [name for name in snapshot.frames if str(name).startswith("piece_hash_")]
    if not names:
        return
    frames, hashes = scanned_frames(snapshot, prediction), [snapshot.frames[n] for n in names]
    size, smallest = page_bytes(snapshot), int(snapshot.info["piece_bytes"])
    while smallest < size:
        contents = _Contents(prediction.empty(len(frames) * len(names), np.uint64))
        for piece in pieces(len(frames)):
            here = frames[piece]
            content = np.column_stack(
                [words.iloc[piece].to_numpy(np.uint64, na_value=0)[here] for words in hashes]
            ).reshape(-1)
            zero = content == np.uint64(snapshot.info["zero_piece_hash"])
            pairs = smallest // int(snapshot.info["piece_bytes"])
            while pairs > 1:
                content = _together(content, np.arange(0, len(content), 2), 2)
                zero, pairs = zero[0::2] & zero[1::2], pairs // 2
            contents.add(content, zero)
        yield contents.row(smallest)
        smallest *= 2


class _Contents:
    """The contents of pages of one size, and how many of them are zero-filled.

    ``words``: room for all of them.
    """

    def __init__(self, words: Words) -> None:
        self._words, self._pages, self._zero = words, 0, 0

    def add(self, contents: Words, zero: Mask) -> None:
        """Take in more pages."""
        self._words[self._pages : self._pages + len(contents)] = contents
        self._pages += len(contents)
        self._zero += int(np.count_nonzero(zero))

    def row(self, size: int) -> tuple[int, int, int, int]:
        """As ``page_sizes`` has it, of pages of ``size``."""
        saved = self._pages - distinct(self._words[: self._pages])
        return size, self._pages * size, saved * size, max(self._zero - 1, 0) * size


def _whole_groups(snapshot: Snapshot, prediction: Prediction, pages: int) -> Iterator[Ints]:
    """The rows of ``mappings`` at which each whole group begins: ``pages`` follow one another.

    Piece by piece.
    """
    start = snapshot.vmas["start"].to_numpy() // np.uint64(page_bytes(snapshot))
    rows, vma, group = np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint64)
    for piece, some in in_pieces(snapshot.mappings, ("vma_id", "page_index")):
        scanned = prediction.is_scanned(piece)
        new_vma, index = (some[name].to_numpy()[scanned] for name in ("vma_id", "page_index"))
        rows = np.append(rows, np.flatnonzero(scanned) + piece.start)
        vma = np.append(vma, new_vma)
        group = np.append(group, (start[new_vma] + index) // np.uint64(pages))
        new = np.append(True, (group[1:] != group[:-1]) | (vma[1:] != vma[:-1]))[: len(rows)]
        begins = np.flatnonzero(new)
        yield rows[begins[:-1][np.diff(begins) == pages]]
        last = int(begins[-1]) if len(begins) else 0  # this group may go on
        rows, vma, group = rows[last:], vma[last:], group[last:]
    if len(rows) == pages:
        yield rows[:1]


def _together(
    words: npt.NDArray[np.unsignedinteger], first: Ints, pages: int, keys: Words | None = None
) -> Words:
    """One number for the ``pages`` words from each of ``first`` on, in their order (u64).

    ``keys``: what the words are numbers of, to be taken in their place.
    """
    found = np.zeros(len(first), np.uint64)
    for number in range(pages):
        word = words[first + number]
        found = (found ^ (word if keys is None else keys[word])) * _MIX
        found ^= found >> np.uint64(29)
    return found

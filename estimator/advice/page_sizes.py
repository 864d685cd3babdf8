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
from estimator.arrays import Ints, Mask, Words, distinct, pieces
from estimator.ksm.content_parts import rows_by_number
from estimator.ksm.contents import content_keys
from estimator.ksm.frames import frames_with
from estimator.ksm.prediction import Outcome, Prediction
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
    base, tagged = page_bytes(snapshot), frames_with(snapshot.frames, FrameFlag.MTE)
    keys = content_keys(snapshot.frames, tagged, prediction.empty)
    for size in PAGE_SIZES:
        pages = size // base
        if pages == 1:
            yield _single(snapshot, prediction, keys)
        elif pages:
            yield _grouped(snapshot, prediction, keys, pages)


def _single(snapshot: Snapshot, prediction: Prediction, keys: Words) -> tuple[int, int, int, int]:
    flags, frames = snapshot.frames["flags"].to_numpy(), scanned_frames(snapshot, prediction)
    contents = _Contents(prediction.empty(len(keys), np.uint64))
    for piece in pieces(len(keys)):
        here = frames[piece]
        contents.add(keys[piece][here], _is_zero(flags[piece][here]))
    return contents.row(page_bytes(snapshot))


def _grouped(
    snapshot: Snapshot, prediction: Prediction, keys: Words, pages: int
) -> tuple[int, int, int, int]:
    """Each group of ``pages`` that lie on other frames than those before, in parts."""
    flags, frame_of_row = (
        column.to_numpy() for column in (snapshot.frames["flags"], snapshot.mappings["frame_id"])
    )
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
            zero &= _is_zero(flags[frame_of_row[rows + number]])
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


def _is_zero(flags: npt.NDArray[np.unsignedinteger]) -> Mask:
    zero: Mask = (flags & FrameFlag.ZERO) != 0
    return zero


def _whole_groups(snapshot: Snapshot, prediction: Prediction, pages: int) -> Iterator[Ints]:
    """The rows of ``mappings`` at which each whole group begins: ``pages`` follow one another.

    Piece by piece.
    """
    start = snapshot.vmas["start"].to_numpy() // np.uint64(page_bytes(snapshot))
    vma_of_row = snapshot.mappings["vma_id"].to_numpy()
    index_of_row = snapshot.mappings["page_index"].to_numpy()
    for piece in pieces(len(vma_of_row)):
        here = slice(piece.start, piece.stop + pages - 1)  # to the end of the last that begins here
        rows = np.flatnonzero(prediction.outcome[here] > Outcome.UNKNOWN) + piece.start
        vma = vma_of_row[rows]
        group = (start[vma] + index_of_row[rows]) // np.uint64(pages)
        new = np.append(True, (group[1:] != group[:-1]) | (vma[1:] != vma[:-1]))[: len(rows)]
        begins = np.flatnonzero(new)
        whole = rows[begins[np.diff(np.append(begins, len(rows))) == pages]]
        yield whole[whole < piece.stop]


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

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
from estimator.arrays import Ints, Words, pieces
from estimator.ksm.contents import content_keys
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
    base = page_bytes(snapshot)
    keys, zero = content_keys(snapshot.frames), _is_zero(snapshot)
    frame_of_row = snapshot.mappings["frame_id"].to_numpy()
    for size in PAGE_SIZES:
        pages = size // base
        if pages == 1:
            frames = scanned_frames(snapshot, prediction)
            yield _row(size, keys[frames], zero[frames])
        elif pages:
            first = _whole_groups(snapshot, prediction, pages)
            _, distinct = np.unique(_together(frame_of_row, first, pages), return_index=True)
            first = first[distinct]
            empty = np.ones(len(first), np.bool_)
            for number in range(pages):
                empty &= zero[frame_of_row[first + number]]
            yield _row(size, _together(frame_of_row, first, pages, keys), empty)


def _pieces(snapshot: Snapshot, prediction: Prediction) -> Iterator[tuple[int, int, int, int]]:
    names = [name for name in snapshot.frames if str(name).startswith("piece_hash_")]
    if not names:
        return
    frame = np.flatnonzero(scanned_frames(snapshot, prediction))
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


def _whole_groups(snapshot: Snapshot, prediction: Prediction, pages: int) -> Ints:
    """The rows of ``mappings`` at which each whole group begins: ``pages`` follow one another."""
    start = snapshot.vmas["start"].to_numpy() // np.uint64(page_bytes(snapshot))
    vma_of_row = snapshot.mappings["vma_id"].to_numpy()
    index_of_row = snapshot.mappings["page_index"].to_numpy()
    found = [np.zeros(0, np.int64)]
    for piece in pieces(len(vma_of_row)):
        here = slice(piece.start, piece.stop + pages - 1)  # to the end of the last that begins here
        rows = np.flatnonzero(prediction.outcome[here] > Outcome.UNKNOWN) + piece.start
        vma = vma_of_row[rows]
        group = (start[vma] + index_of_row[rows]) // np.uint64(pages)
        new = np.append(True, (group[1:] != group[:-1]) | (vma[1:] != vma[:-1]))[: len(rows)]
        begins = np.flatnonzero(new)
        whole = rows[begins[np.diff(np.append(begins, len(rows))) == pages]]
        found.append(whole[whole < piece.stop])
    return np.concatenate(found)


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

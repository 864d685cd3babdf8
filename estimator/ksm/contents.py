"""Contents (frames with the same bytes) and what becomes of them where order does not matter.

The closed forms are exact at rest, whatever the order of the scan, for the reasons given in
``closed_forms``. What is left is named there too and is run through ``simulate.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import (
    THREADS,
    Empty,
    Ints,
    Mask,
    Numbers,
    Words,
    each_piece,
    in_turn,
    pieces,
    take,
)
from estimator.ksm.frames import NEVER, FrameFacts
from estimator.ksm.rules import Rules
from estimator.snapshot.stored_table import in_pieces

_PART_BITS = 5
_ODD = np.uint64(0x9E37_79B9_7F4A_7C15)


@dataclass(frozen=True)
class Contents:
    """The known frames by content.

    ``of_frame``: i32, number of the content per frame, -1 where unknown. ``order``: i32, known
    frames, those of one content together, in the order in which the scan meets them; frames without
    candidates last. ``starts``: i32, where in ``order`` each content starts, and its length.
    ``number``: how many contents there are.
    """

    of_frame: Numbers
    order: Numbers
    starts: Numbers
    number: int

    def __len__(self) -> int:
        return self.number

    def frames_of(self, chosen: Ints | Numbers) -> tuple[Numbers, Ints, Numbers]:
        """The frames of the ``chosen`` contents, one content after the other.

        Returns the frames, where each content starts among them, and for every frame which of the
        chosen contents it belongs to.
        """
        sizes = self.starts[chosen + 1] - self.starts[chosen]
        starts = np.cumsum(sizes) - sizes
        of = np.repeat(np.arange(len(chosen), dtype=np.int32), sizes)
        place = (self.starts[chosen] - starts).astype(np.int32).take(of)
        place += np.arange(len(of), dtype=np.int32)
        return self.order.take(place), starts, of


def content_keys(frames: pd.DataFrame, tagged: Mask, empty: Empty = np.empty) -> Words:
    """What tells contents apart, u64 per frame: the hash, 0 where it is unknown.

    ``tagged``: bool per frame; ``empty``: makes the array. A frame with tags of MTE is unlike any
    other, also one of the same bytes and tags (memcmp_pages() in arch/arm64/kernel/mte.c): it has a
    number of its own.
    """
    keys = empty(len(frames), np.uint64)
    for piece, some in in_pieces(frames, ("hash",)):
        keys[piece] = some["hash"].to_numpy(dtype=np.uint64, na_value=0)
    if tagged.any():
        pfns = frames["pfn"].to_numpy()[tagged]
        keys[tagged] = (pfns + np.uint64(1)) * _ODD  # distinct for distinct PFNs
    return keys


def group_by_content(
    frames: pd.DataFrame,
    facts: FrameFacts,
    frame_of_row: npt.NDArray[np.uint32],
    rules: Rules,
    keys: Words,
) -> Contents:
    """Group the frames whose content is known. ``keys``: ``content_keys``.

    A content is the bytes of a page; where trees are per NUMA node (get_kpfn_nid() in mm/ksm.c),
    of one node. KSM compares bytes: equal 64-bit hashes are taken for equal bytes.
    """
    order, new = _by_hash(keys, facts.known, _as_met(facts, frame_of_row))
    del keys
    if not rules.merge_across_nodes:
        node = frames["node"].to_numpy()[order]
        by_node = np.lexsort((node, np.cumsum(new)))
        order, node = order[by_node], node[by_node]
        new[1:] |= node[1:] != node[:-1]
    of_frame = np.full(len(frames), -1, dtype=np.int32)
    counts = [int(np.count_nonzero(new[piece])) for piece in pieces(len(order))]
    starts = np.full(sum(counts) + 1, len(order), dtype=np.int32)
    begin = (piece.start for piece in pieces(len(order)))
    before = dict(zip(begin, accumulate(counts, initial=0), strict=False))

    def number(piece: slice) -> None:
        begins, first = np.flatnonzero(new[piece]), before[piece.start]
        of_frame[order[piece]] = np.cumsum(new[piece], dtype=np.int32) + np.int32(first - 1)
        starts[first : first + len(begins)] = begins + piece.start

    each_piece(len(order), number)
    return Contents(of_frame, order, starts, len(starts) - 1)


def _as_met(facts: FrameFacts, frame_of_row: npt.NDArray[np.uint32]) -> Iterator[Numbers]:
    """The known frames as the scan meets them, then the others, some at a time."""
    is_first = np.zeros(len(frame_of_row), dtype=bool)
    for piece in pieces(len(facts.first)):
        first = facts.first[piece]
        is_first[first[first != NEVER]] = True
    for piece in pieces(len(frame_of_row)):
        yield frame_of_row[piece][is_first[piece]].astype(np.int32)
    for piece in pieces(len(facts.first)):
        others = facts.known[piece] & (facts.first[piece] == NEVER)
        yield np.flatnonzero(others).astype(np.int32) + np.int32(piece.start)


def _by_hash(hashes: Words, known: Mask, as_met: Iterable[Numbers]) -> tuple[Numbers, Mask]:
    """The ``known`` frames (bool per frame), equal hashes together in the order of ``as_met``.

    ``hashes``: u64 per frame. ``as_met``: each of these frames once, some at a time. Returns i32,
    ascending by hash, and which of them is not like the one before.

    Faster than ``np.argsort``: the parts of the range of hashes are sorted side by side, since
    NumPy lets other threads run.
    """
    shift, parts = np.uint64(64 - _PART_BITS), 1 << _PART_BITS
    sizes = np.zeros(parts, np.int64)
    for piece in pieces(len(hashes)):
        part = (hashes[piece][known[piece]] >> shift).astype(np.uint8)
        sizes += np.bincount(part, minlength=parts)
    ends = np.cumsum(sizes)
    order, new = np.empty(sizes.sum(), np.int32), np.empty(sizes.sum(), np.bool_)
    at = ends - sizes

    def by_part(frames: Numbers) -> list[Numbers]:
        part = (hashes.take(frames) >> shift).astype(np.uint8)
        together = frames.take(np.argsort(part, kind="stable"))
        return np.split(together, np.cumsum(np.bincount(part, minlength=parts))[:-1])

    for found in in_turn(by_part, as_met):
        for number, some in enumerate(found):
            order[at[number] : at[number] + len(some)] = some
            at[number] += len(some)

    def sort(number: int) -> None:
        here = slice(ends[number] - sizes[number], ends[number])
        order[here], new[here] = _stable_order(order[here], hashes.take(order[here]))

    with ThreadPoolExecutor(THREADS) as threads:  # one needs 50 bytes per hash of its own
        list(threads.map(sort, range(parts)))
    return order, new


def _stable_order(frames: Numbers, hashes: Words) -> tuple[Numbers, Mask]:
    """See ``_by_hash``, for the ``hashes`` of ``frames``.

    Sorts one word per hash, its upper bits followed by its number, and then puts those few in order
    that differ in the lower bits only.
    """
    bits = np.uint64(max(1, (len(hashes) - 1).bit_length()))
    low = (np.uint64(1) << bits) - np.uint64(1)
    words = (hashes & ~low) | np.arange(len(hashes), dtype=np.uint64)
    words.sort()
    order = (words & low).view(np.int64)
    words >>= bits
    in_order = hashes.take(order)
    mixed = (words[1:] == words[:-1]) & (in_order[1:] != in_order[:-1])
    for same in np.unique(words[1:][mixed]):
        begin, end = np.searchsorted(words, same), np.searchsorted(words, same, side="right")
        inner = np.argsort(in_order[begin:end], kind="stable")
        order[begin:end] = order[begin:end][inner]
        in_order[begin:end] = in_order[begin:end][inner]
    new = np.ones(len(hashes), np.bool_)
    np.not_equal(in_order[1:], in_order[:-1], out=new[1:])
    return frames.take(order), new


def per_frame(per_content: Mask, contents: Contents) -> Mask:
    """Bool per content -> bool per frame, to be read alone; False where the content is unknown."""
    if not per_content.any():
        return np.broadcast_to(np.False_, len(contents.of_frame))
    return take(np.append(per_content, False), contents.of_frame)


def first_split_of_folio(facts: FrameFacts, split: Numbers) -> Numbers:
    """i32 per folio: the row at which the second full scan splits it, else NEVER.

    ``split``: i32 per frame, as in ``ClosedForms``.
    """
    folios = int(facts.folio.max(initial=-1)) + 1
    first = np.full(folios, NEVER, dtype=np.int32)
    for piece in pieces(len(split) if folios else 0):
        at, folio = split[piece], facts.folio[piece]
        inside = (at != NEVER) & (folio >= 0)
        np.minimum.at(first, folio[inside], at[inside])
    return first

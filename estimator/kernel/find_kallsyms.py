"""Where kallsyms is in a kernel that does not say it: before 6.0, VMCOREINFO lacks its addresses.

The tables are found by what only they contain. They lie one after the other, each at a multiple of
8 (by 7.2: of 4), as scripts/kallsyms.c write_src() puts them since 4.20: ``kallsyms_num_syms``,
``_names``, ``_markers``, ``_token_table``, ``_token_index``; and ``_offsets`` with
``_relative_base`` before these, or behind them since 6.4 (the latter until 6.19).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import numpy as np
from drgn import FaultError, Program

from estimator.arrays import Ints

_SEARCHED_BYTES = 64 << 20  # of the kernel's image, from _stext on
_PIECE_BYTES = 64 << 10  # memory that was freed, as between text and data, can't be read
_TOKENS = 256
_MOST_TOKEN_BYTES = 1 << 16
_RUN_WORDS = 1 << 21  # looked through at a time
_NAMES_PER_MARKER = 256
_MOST_MARKERS_BYTES = 4 << 20
_SURELY_MARKERS = 16
_LONGEST_NAME = 128
_LONG = 0x80  # the length goes on in the next byte (6.1+, 73bbb94466fd)


def find_tables(prog: Program, stext: int) -> Iterator[Mapping[str, int]]:
    """The addresses of the tables by name, in the orders in which they may lie.

    ``stext``: the address of _stext.
    """
    for start, data in _image(prog, stext):
        for token_index in _ascending(data):
            for found in _tables_around(data, token_index):
                yield {f"kallsyms_{name}": start + offset for name, offset in found.items()}


def _ascending(data: bytes) -> Iterator[int]:
    """Offsets of what may be ``kallsyms_token_index``: as many u16 from 0 on, each more."""
    words = np.frombuffer(data[: len(data) & ~1], "<u2")
    for first in range(0, len(words), _RUN_WORDS):
        piece = words[first : first + _RUN_WORDS + _TOKENS]
        breaks = np.flatnonzero(piece[1:] <= piece[:-1])
        breaks = np.concatenate(([-1], breaks, [len(piece) - 1]))
        long = np.flatnonzero(np.diff(breaks) >= _TOKENS)
        for at in (breaks[long] + 1).tolist():
            if piece[at] == 0:
                yield 2 * (first + at)


def _image(prog: Program, stext: int) -> Iterator[tuple[int, bytes]]:
    """Where memory begins that can be read without a gap, and what stands there."""
    pieces: list[bytes] = []
    start = stext & ~(_PIECE_BYTES - 1)
    for address in range(start, start + _SEARCHED_BYTES, _PIECE_BYTES):
        try:
            pieces.append(prog.read(address, _PIECE_BYTES))
        except FaultError:
            if pieces:
                yield start, b"".join(pieces)
            pieces, start = [], address + _PIECE_BYTES
    if pieces:
        yield start, b"".join(pieces)


def _tables_around(data: bytes, token_index: int) -> list[dict[str, int]]:
    """Offsets of all tables, if tokens are before ``token_index`` as it says; else nothing."""
    index = np.frombuffer(data, "<u2", _TOKENS, token_index)
    token_table = _token_table(data, token_index, index.astype(np.int64))
    if token_table is None:
        return []
    found = _names(data, token_table)
    if found is None:
        return []
    num_syms, names = found
    offsets_bytes = _aligned(4 * struct.unpack_from("<I", data, num_syms)[0])
    tables = {
        "num_syms": num_syms,
        "names": names,
        "token_table": token_table,
        "token_index": token_index,
    }
    before, behind = num_syms - 8, token_index + index.nbytes
    return [  # the first until 6.4
        {**tables, "offsets": before - offsets_bytes, "relative_base": before},
        {**tables, "offsets": behind, "relative_base": behind + offsets_bytes},
    ]


def _token_table(data: bytes, token_index: int, index: Ints) -> int | None:
    """Where the tokens begin: each ends with a zero, where ``index`` (i64) says."""
    last = data[max(0, token_index - _MOST_TOKEN_BYTES) : token_index].rstrip(b"\0")
    end = token_index - min(token_index, _MOST_TOKEN_BYTES) + len(last) + 1
    last_token = data.rfind(b"\0", 0, end - 1) + 1
    token_table = last_token - int(index[-1])
    if token_table < 4:
        return None
    before = np.frombuffer(data, np.uint8)[token_table + index[1:] - 1]
    return token_table if token_table % 4 == 0 and not before.any() else None


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8


def find_markers(data: bytes, end: int) -> tuple[int, Ints]:
    """Where the markers begin, and they (i64): the last ascending u32 from 0 on before ``end``.

    Between them and ``end`` only ``kallsyms_seqs_of_names`` may be (6.2+, 60443c88f3a8).
    """
    start = max(end % 4, end - _MOST_MARKERS_BYTES)
    words = np.frombuffer(data[start:end], "<u4").astype(np.int64)
    steps = np.diff(words, append=0)
    breaks = np.flatnonzero((steps <= 0) | (steps > _NAMES_PER_MARKER * _LONGEST_NAME)) + 1
    firsts, counts = breaks[:-1], np.diff(breaks)
    few_but_near = (counts > 1) & (firsts + counts >= len(words) - 1)
    fit = np.flatnonzero((words[firsts] == 0) & ((counts >= _SURELY_MARKERS) | few_but_near))
    if not len(fit):
        return end, np.zeros(1, np.int64)
    first, count = firsts[fit[-1]], counts[fit[-1]]
    return start + 4 * int(first), words[first : first + count]


def _names(data: bytes, token_table: int) -> tuple[int, int] | None:
    """Where their number stands and the names begin; each marker tells where 256 more begin."""
    markers, marks = find_markers(data, token_table)
    counts = range(_NAMES_PER_MARKER * (len(marks) - 1) + 1, _NAMES_PER_MARKER * len(marks) + 1)
    latest = (markers - int(marks[-1])) & ~3
    for names in range(latest, max(8, latest - _NAMES_PER_MARKER * _LONGEST_NAME), -4):
        low, high = struct.unpack_from("<II", data, names - 8)
        for count, num_syms in ((low, names - 8), (high, names - 4)):
            if count in counts and _end_there(data[names:markers], count, marks):
                return num_syms, names
    return None


def _end_there(packed: bytes, count: int, marks: Ints) -> bool:
    """Whether ``count`` names fill ``packed``, but for what aligns the table behind it."""
    try:
        return len(packed) - int(walk_names(packed, count, marks)[0][-1]) < 8
    except IndexError:
        return False


def walk_names(packed: bytes, count: int, marks: Ints) -> tuple[Ints, Ints]:
    """Where each name's length stands, and the end of all; and where each name begins (i64).

    ``marks``: where every 256th name begins. All such groups are walked at once, if they are as
    many and lead from one to the next; else one name leads to the next, which takes 20 times as
    long. Raises IndexError if ``packed`` ends before.
    """
    if len(marks) == -(-count // _NAMES_PER_MARKER):
        heads, starts, ends = _walk(packed, marks[:-1], _NAMES_PER_MARKER)
        if np.array_equal(np.append(0, ends), marks):
            last = _walk(packed, marks[-1:], count - heads.size)
            heads = np.concatenate([heads.ravel(), last[0].ravel(), last[2]])
            return heads, np.concatenate([starts.ravel(), last[1].ravel()])
    heads, starts, ends = _walk(packed, np.zeros(1, np.int64), count)
    return np.concatenate([heads.ravel(), ends]), starts.ravel()


def _walk(packed: bytes, at: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """From each of ``at`` over ``count`` names: their lengths, their beginnings, and the end."""
    data = np.frombuffer(packed, np.uint8).astype(np.int64)
    heads, starts = np.empty((2, len(at), count), np.int64)
    for n in range(count):
        heads[:, n] = at
        length = data[at]
        long = length & _LONG != 0
        starts[:, n] = at + 1 + long
        length[long] += (data[at[long] + 1] << 7) - _LONG
        at = starts[:, n] + length
    if (at > len(packed)).any():
        raise IndexError("names end behind their table")
    return heads, starts, at

"""Where kallsyms is in a kernel that does not say it: before 6.0, VMCOREINFO lacks its addresses.

The tables are found by what only they contain. They lie one after the other, each at a multiple of
8, as scripts/kallsyms.c write_src() has put them from 4.20 until 6.3: ``kallsyms_offsets``,
``_relative_base``, ``_num_syms``, ``_names``, ``_markers``, ``_token_table``, ``_token_index``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import numpy as np
from drgn import FaultError, Program

_SEARCHED_BYTES = 64 << 20  # of the kernel's image, from _stext on
_PIECE_BYTES = 64 << 10  # memory that was freed, as between text and data, can't be read
_TOKENS = 256
_FIRST_DIGIT = ord("0")
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))  # they stand for themselves
_NAMES_PER_MARKER = 256
_LONGEST_NAME = 128


def find_tables(prog: Program, stext: int) -> Mapping[str, int]:
    """The addresses of the tables by name; empty if they are not found.

    ``stext``: the address of _stext.
    """
    for start, data in _image(prog, stext):
        at = data.find(_DIGITS)
        while at >= 0:
            found = _tables_around(data, at)
            if found:
                return {f"kallsyms_{name}": start + offset for name, offset in found.items()}
            at = data.find(_DIGITS, at + 1)
    return {}


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


def _tables_around(data: bytes, digits: int) -> dict[str, int] | None:
    """Offsets of all tables if the token table has its digits at ``digits``; None if it has not."""
    token_table = digits - 1
    for _ in range(_FIRST_DIGIT):
        token_table = data.rfind(b"\0", 0, token_table)
    token_table += 1
    places, end = [], token_table
    for _ in range(_TOKENS):
        places.append(end - token_table)
        end = data.find(b"\0", end) + 1
    token_index = _aligned(end)
    expected = np.array(places, "<u2" if places[-1] < 1 << 16 else "<u4").tobytes()
    while token_table % 8 and data[token_table : token_table + 1] == b"\0":
        token_table += 1
    if data[token_index : token_index + len(expected)] != expected:
        return None
    markers = _markers(data, token_table)
    names = _names(data, markers, (token_table - markers) // 4)
    if names is None:
        return None
    num_syms = names - 8
    count = struct.unpack_from("<I", data, num_syms)[0]
    relative_base = num_syms - 8
    return {
        "offsets": relative_base - _aligned(4 * count),
        "relative_base": relative_base,
        "num_syms": num_syms,
        "names": names,
        "token_table": token_table,
        "token_index": token_index,
    }


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8


def _markers(data: bytes, end: int) -> int:
    """Where the markers begin that end at ``end``: ascending u32, the first is 0."""
    words = np.frombuffer(data[end % 4 : end], "<u4")
    last = len(words) - 1 - int(words[-1] == 0)
    zeros = np.flatnonzero(words[:last] == 0)
    return end - 4 * (len(words) - int(zeros[-1])) if len(zeros) else 0


def _names(data: bytes, markers: int, most_markers: int) -> int | None:
    """Where the names begin that end before ``markers``: each of these tells where 256 more do."""
    marks = np.frombuffer(data[markers : markers + 4 * most_markers], "<u4").tolist()
    while len(marks) > 1 and marks[-1] == 0:
        marks.pop()
    counts = range(_NAMES_PER_MARKER * (len(marks) - 1) + 1, _NAMES_PER_MARKER * len(marks) + 1)
    latest = (markers - marks[-1]) & ~7
    for names in range(latest, latest - _NAMES_PER_MARKER * _LONGEST_NAME, -8):
        if names < 8 or struct.unpack_from("<Q", data, names - 8)[0] not in counts:
            continue
        if len(marks) < 2 or _length(data, names, _NAMES_PER_MARKER) == marks[1]:
            return names
    return None


def _length(data: bytes, start: int, count: int) -> int:
    at = start
    for _ in range(count):
        at += 1 + data[at]
    return at - start

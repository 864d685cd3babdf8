"""The records of BTF: the C types of a kernel as it carries them (Documentation/bpf/btf.rst).

It is some megabytes between ``__start_BTF`` and ``__stop_BTF``, and in /sys/kernel/btf/vmlinux. It
has all types and the functions that are not inlined; of variables some per-CPU ones at most.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

from estimator.arrays import Ints
from estimator.errors import TargetError

_Words = npt.NDArray[np.uint32]

_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, and five u32
_MAGIC = 0xEB9F
_VERSION = 1


class Kind(enum.IntEnum):
    """BTF_KIND_* of include/uapi/linux/btf.h."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_EXTRA_WORDS: dict[int, int] = {Kind.INT: 1, Kind.ARRAY: 3, Kind.VAR: 1, Kind.DECL_TAG: 1}
_WORDS_EACH: dict[int, int] = {
    Kind.STRUCT: 3,
    Kind.UNION: 3,
    Kind.ENUM: 2,
    Kind.FUNC_PROTO: 2,
    Kind.DATASEC: 3,
    Kind.ENUM64: 3,
}


class BtfError(TargetError):
    """BTF that is damaged, or none at all."""


class BtfRecords:
    """The types in ``data`` (a whole BTF section), by numbers from 1 on.

    Raises BtfError, also later, if ``data`` contradicts itself.
    """

    def __init__(self, data: bytes) -> None:
        self._words, self._strings = _sections(data)
        self._at = _records(self._words)  # of each type from number 1 on: where its words begin
        info = self._words[self._at + 1]
        self._kind = (info >> 24 & 0x7F).astype(np.uint8)
        self._name = self._words[self._at]
        self._offsets: dict[str, int | None] = {}

    def numbers(self, name: str | None, kinds: Collection[int]) -> list[int]:
        """The types ``name`` (None: without one) of one of ``kinds``."""
        offset = 0 if name is None else self._offset(name)
        if offset is None:
            return []
        rows = np.flatnonzero(self._name == offset)
        return (rows[np.isin(self._kind[rows], list(kinds))] + 1).tolist()

    def holding(self, name: str, kinds: Collection[int]) -> Iterator[int]:
        """The types of one of ``kinds`` that have a member or enumerator ``name`` of their own."""
        offset = self._offset(name)
        words = [] if offset is None else np.flatnonzero(self._words == offset).tolist()
        for word in words:
            number = int(np.searchsorted(self._at, word, "right"))
            inside = word - int(self._at[number - 1]) - 3
            kind = self.kind(number)
            if kind in kinds and inside >= 0 and inside % _WORDS_EACH[kind] == 0:
                yield number

    def enum_with(self, name: str) -> int | None:
        """The number of the first enum that has the enumerator ``name``."""
        return next(self.holding(name, (Kind.ENUM, Kind.ENUM64)), None)

    def _offset(self, name: str) -> int | None:
        if name not in self._offsets:
            at = self._strings.find(b"\0" + name.encode() + b"\0")
            self._offsets[name] = None if at < 0 else at + 1
        return self._offsets[name]

    def string(self, offset: int) -> str | None:
        """The text at ``offset`` of the strings; None for an empty one."""
        end = self._strings.find(b"\0", offset)
        if end < 0:
            raise BtfError(f"BTF names a string at {offset}, past its strings")
        return self._strings[offset:end].decode(errors="replace") or None

    def word(self, number: int, index: int) -> int:
        """A word of the record: 0 is the name, 1 kind and count, 2 the size or another type."""
        return int(self._words[self._at[number - 1] + index])

    def kind(self, number: int) -> int:
        """See ``Kind``."""
        return int(self._kind[number - 1])

    def flag(self, number: int) -> bool:
        """The kind's own flag: bit fields, a union, signed values."""
        return bool(self.word(number, 1) >> 31)

    def each(self, number: int) -> Iterator[tuple[int, ...]]:
        """The words of each member, enumerator or parameter."""
        width = _WORDS_EACH[int(self._kind[number - 1])]
        start = int(self._at[number - 1]) + 3
        count = self.word(number, 1) & 0xFFFFFF
        rows = self._words[start : start + count * width].reshape(count, width)
        yield from map(tuple, rows.tolist())


def _sections(data: bytes) -> tuple[_Words, bytes]:
    """The words of the types, and the strings."""
    if len(data) < _HEADER.size:
        raise BtfError(f"BTF of {len(data)} bytes is none")
    magic, version, _, size, types, types_bytes, strings, strings_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise BtfError(f"no BTF: it begins with {magic:#x}, version {version}")
    first, last = size + types, size + types + types_bytes
    start, end = size + strings, size + strings + strings_bytes
    if max(last, end) > len(data) or types_bytes % 4 or not strings_bytes:
        raise BtfError(f"BTF is cut off: {len(data)} bytes of {max(last, end)}")
    return np.frombuffer(data[first:last], "<u4"), data[start:end]


def _records(words: _Words) -> Ints:
    """Where each type begins (i64): a record is as long as its kind and its members make it."""
    extra, each = np.zeros((2, 128), np.int64)
    extra[list(_EXTRA_WORDS)] = list(_EXTRA_WORDS.values())
    each[list(_WORDS_EACH)] = list(_WORDS_EACH.values())
    info = np.append(words[1:], np.uint32(0))
    kind = (info >> 24 & 0x7F).astype(np.intp)
    length = 3 + extra[kind] + each[kind] * (info & 0xFFFFFF).astype(np.int64)
    length[(kind == 0) | (kind > max(Kind))] = len(words) + 1
    following = (np.arange(len(words)) + length).data
    starts, at, end = [], 0, len(words)
    while at < end:
        starts.append(at)
        at = following[at]
    if at != end:
        raise BtfError(f"BTF is damaged: its type {len(starts)} is none or ends past all types")
    return np.array(starts, np.int64)

"""BTF: the C types of a kernel, as the kernel carries them (Documentation/bpf/btf.rst).

It is some megabytes between ``__start_BTF`` and ``__stop_BTF``, and has all types and the functions
that are not inlined. Of variables it has some per-CPU ones at most.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import drgn
import numpy as np
import numpy.typing as npt
from drgn import Object, Program, Qualifiers, TypeEnumerator, TypeKind, TypeMember, TypeParameter

from estimator.arrays import Ints
from estimator.errors import TargetError

_Words = npt.NDArray[np.uint32]

_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, and five u32
_MAGIC = 0xEB9F
_VERSION = 1
(
    _INT,
    _PTR,
    _ARRAY,
    _STRUCT,
    _UNION,
    _ENUM,
    _FWD,
    _TYPEDEF,
    _VOLATILE,
    _CONST,
    _RESTRICT,
    _FUNC,
    _FUNC_PROTO,
    _VAR,
    _DATASEC,
    _FLOAT,
    _DECL_TAG,
    _TYPE_TAG,
    _ENUM64,
) = range(1, 20)
_KINDS = 20
_EXTRA_WORDS = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_WORDS_EACH = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}
_QUALIFIERS = {
    _VOLATILE: Qualifiers.VOLATILE,
    _CONST: Qualifiers.CONST,
    _RESTRICT: Qualifiers.RESTRICT,
}
_NAMED = {
    TypeKind.STRUCT: (_STRUCT, _FWD),
    TypeKind.UNION: (_UNION, _FWD),
    TypeKind.ENUM: (_ENUM, _ENUM64),
    TypeKind.TYPEDEF: (_TYPEDEF,),
    TypeKind.INT: (_INT,),
    TypeKind.BOOL: (_INT,),
    TypeKind.FLOAT: (_FLOAT,),
}
_LONGEST_CHAIN = 64  # of typedefs, qualifiers, arrays and pointers around a type
_POINTER_BYTES = 8


class BtfError(TargetError):
    """BTF that is damaged, or none at all."""


class Btf:
    """The types in ``data`` (a whole BTF section); only what is asked for is built.

    Raises BtfError, also later, if ``data`` contradicts itself.
    """

    def __init__(self, prog: Program, data: bytes) -> None:
        self._prog = prog
        self._words, self._strings = _sections(data)
        self._at = _records(self._words)  # of each type from number 1 on: where its words begin
        info = self._words[self._at + 1]
        self._kind = (info >> 24 & 0x7F).astype(np.uint8)
        self._name = self._words[self._at]
        self._built: dict[int, drgn.Type] = {0: prog.void_type()}
        self._depth = 0  # of types that are being built
        self._offsets: dict[str, int | None] = {}

    def find(self, kinds: object, name: str) -> drgn.Type | None:
        """The first type ``name`` (of a struct: its tag) of one of the drgn TypeKinds ``kinds``.

        A complete one before one that is declared only; None if there is none.
        """
        wanted = [kind for key, of in _NAMED.items() if key in kinds for kind in of]  # type: ignore[operator]
        found = self._numbers(name, wanted)
        found.sort(key=lambda number: self._kind[number - 1] == _FWD)
        for number in found:
            type_ = self._type(number)
            if type_.kind in kinds:  # type: ignore[operator]
                return type_
        return None

    def struct_with(self, name: str | None, *members: str) -> drgn.Type | None:
        """The first struct ``name`` (None: without a name) that has all of ``members``."""
        for number in self._numbers(name, [_STRUCT]):
            type_ = self._type(number)
            if all(type_.has_member(member) for member in members):
                return type_
        return None

    def function(self, name: str) -> drgn.Type | None:
        """The type of the function ``name``; None also if it was inlined everywhere."""
        found = self._numbers(name, [_FUNC])
        return self._type(self._word(found[0], 2)) if found else None

    def constant(self, name: str) -> Object | None:
        """The enumerator ``name``."""
        offset = self._offset(name)
        if offset is None:
            return None
        for word in np.flatnonzero(self._words == offset).tolist():
            number = int(np.searchsorted(self._at, word, "right"))
            inside = word - int(self._at[number - 1]) - 3
            each = _WORDS_EACH.get(int(self._kind[number - 1]), 0)
            if self._kind[number - 1] in (_ENUM, _ENUM64) and inside >= 0 and inside % each == 0:
                type_ = self._type(number)
                values = {e.name: e.value for e in type_.enumerators or ()}
                return Object(self._prog, type_, values[name])
        return None

    def _numbers(self, name: str | None, kinds: list[int]) -> list[int]:
        offset = 0 if name is None else self._offset(name)
        rows = [] if offset is None else np.flatnonzero(self._name == offset).tolist()
        return [row + 1 for row in rows if self._kind[row] in kinds]

    def _offset(self, name: str) -> int | None:
        if name not in self._offsets:
            at = self._strings.find(b"\0" + name.encode() + b"\0")
            self._offsets[name] = None if at < 0 else at + 1
        return self._offsets[name]

    def _string(self, offset: int) -> str | None:
        end = self._strings.find(b"\0", offset)
        if end < 0:
            raise BtfError(f"BTF names a string at {offset}, past its strings")
        return self._strings[offset:end].decode(errors="replace") or None

    def _word(self, number: int, index: int) -> int:
        return int(self._words[self._at[number - 1] + index])

    def _type(self, number: int) -> drgn.Type:
        """The type ``number``; structs refer to their members' types by promises only."""
        if number in self._built:
            return self._built[number]
        if number > len(self._at):
            raise BtfError(f"BTF refers to a type {number}, but has {len(self._at)}")
        if self._depth > _LONGEST_CHAIN:
            raise BtfError(f"the BTF type {number} refers to itself")
        self._depth += 1
        try:
            self._built[number] = self._build(number)
        finally:
            self._depth -= 1
        return self._built[number]

    def _build(self, number: int) -> drgn.Type:
        prog, kind = self._prog, int(self._kind[number - 1])
        name, third = self._string(self._word(number, 0)), self._word(number, 2)
        if kind == _INT:
            return self._int(number, name or "")
        if kind == _FLOAT:
            return prog.float_type(name or "", third)
        if kind == _PTR:
            return prog.pointer_type(self._type(third), _POINTER_BYTES)
        if kind == _ARRAY:
            return prog.array_type(self._type(self._word(number, 3)), self._word(number, 5))
        if kind in (_STRUCT, _UNION):
            make = prog.struct_type if kind == _STRUCT else prog.union_type
            return make(name, third, tuple(self._members(number, third)))
        if kind == _FWD:
            return prog.union_type(name) if self._flag(number) else prog.struct_type(name)
        if kind in (_ENUM, _ENUM64):
            return self._enum(number, name, third)
        if kind == _TYPEDEF:
            return prog.typedef_type(name or "", self._type(third))
        if kind in _QUALIFIERS:
            inner = self._type(third)
            return inner.qualified(inner.qualifiers | _QUALIFIERS[kind])
        if kind == _FUNC_PROTO:
            return self._prototype(number, third)
        if kind in (_FUNC, _TYPE_TAG):
            return self._type(third)
        raise BtfError(f"the BTF type {number} is of kind {kind}, which is none of a value")

    def _flag(self, number: int) -> bool:
        return bool(self._word(number, 1) >> 31)

    def _each(self, number: int) -> Iterator[tuple[int, ...]]:
        """The words of each member, enumerator or parameter."""
        width = _WORDS_EACH[int(self._kind[number - 1])]
        start = int(self._at[number - 1]) + 3
        count = self._word(number, 1) & 0xFFFFFF
        rows = self._words[start : start + count * width].reshape(count, width)
        yield from map(tuple, rows.tolist())

    def _int(self, number: int, name: str) -> drgn.Type:
        size, encoding = self._word(number, 2), self._word(number, 3) >> 24
        if size not in (1, 2, 4, 8, 16):
            raise BtfError(f"BTF says that {name} has {size} bytes")
        if encoding & 4:
            return self._prog.bool_type(name, size)
        return self._prog.int_type(name, size, bool(encoding & 1))

    def _enum(self, number: int, name: str | None, size: int) -> drgn.Type:
        wide = self._kind[number - 1] == _ENUM64
        if size not in (1, 2, 4, 8):
            raise BtfError(f"BTF says that enum {name} has {size} bytes")
        bits = 64 if wide else 32
        values = []
        for offset, low, *high in self._each(number):
            value = low | high[0] << 32 if high else low
            values.append((self._string(offset) or "", value))
        # before pahole 1.24 nothing says whether values are signed: -1 is likelier than 2^32 - 1
        signed = self._flag(number) or (not wide and any(v >> 31 for _, v in values))
        enumerators = tuple(
            TypeEnumerator(text, v - (1 << bits) if signed and v >> (bits - 1) else v)
            for text, v in values
        )
        integer = self._prog.int_type("int" if signed else "unsigned int", size, signed)
        return self._prog.enum_type(name, integer, enumerators)

    def _prototype(self, number: int, result: int) -> drgn.Type:
        parameters = list(self._each(number))
        variadic = bool(parameters) and parameters[-1] == (0, 0)
        named = [
            TypeParameter(self._promise(type_), self._string(offset))
            for offset, type_ in parameters[: len(parameters) - variadic]
        ]
        return self._prog.function_type(self._type(result), tuple(named), variadic)

    def _members(self, number: int, size: int) -> Iterator[TypeMember]:
        sized_bits = self._flag(number)
        for offset, type_, place in self._each(number):
            bits = place >> 24 if sized_bits else 0
            bit_offset = place & 0xFFFFFF if sized_bits else place
            if bit_offset + bits > size * 8:
                raise BtfError(f"BTF puts a member of type {number} outside of its {size} bytes")
            yield TypeMember(self._promise(type_, bits), self._string(offset), bit_offset)

    def _promise(self, number: int, bits: int = 0) -> Callable[[], Object | drgn.Type]:
        def keep() -> Object | drgn.Type:
            type_ = self._type(number)
            return Object(self._prog, type_, bit_field_size=bits) if bits else type_

        return keep


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
    length[(kind == 0) | (kind >= _KINDS)] = len(words) + 1
    following = (np.arange(len(words)) + length).data
    starts, at = [], 0
    while at < len(words):
        starts.append(at)
        at = following[at]
    if at != len(words):
        raise BtfError(f"BTF is damaged: its type {len(starts)} is none or ends past all types")
    return np.array(starts, np.int64)

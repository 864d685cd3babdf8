"""The types of BTF as drgn's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import drgn
from drgn import Object, Program, Qualifiers, TypeEnumerator, TypeKind, TypeMember, TypeParameter

from estimator.collect.btf_records import BtfError, BtfRecords, Kind

_QUALIFIERS: dict[int, Qualifiers] = {
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.CONST: Qualifiers.CONST,
    Kind.RESTRICT: Qualifiers.RESTRICT,
}
_NAMED = {
    TypeKind.STRUCT: (Kind.STRUCT, Kind.FWD),
    TypeKind.UNION: (Kind.UNION, Kind.FWD),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
}
_LONGEST_CHAIN = 64  # of typedefs, qualifiers, arrays and pointers around a type
_POINTER_BYTES = 8


class Btf(BtfRecords):
    """The types in ``data`` (a whole BTF section); only what is asked for is built.

    Raises BtfError, also later, if ``data`` contradicts itself.
    """

    def __init__(self, prog: Program, data: bytes) -> None:
        super().__init__(data)
        self._prog = prog
        self._built: dict[int, drgn.Type] = {0: prog.void_type()}
        self._depth = 0  # of types that are being built

    def find(self, kinds: object, name: str) -> drgn.Type | None:
        """The first type ``name`` (of a struct: its tag) of one of the drgn TypeKinds ``kinds``.

        A complete one before one that is declared only; None if there is none.
        """
        wanted = [kind for key, of in _NAMED.items() if key in kinds for kind in of]  # type: ignore[operator]
        found = self.numbers(name, wanted)
        found.sort(key=lambda number: self._kind[number - 1] == Kind.FWD)
        for number in found:
            type_ = self._type(number)
            if type_.kind in kinds:  # type: ignore[operator]
                return type_
        return None

    def struct_with(self, name: str | None, *members: str) -> drgn.Type | None:
        """The first struct ``name`` (None: without a name) that has all of ``members``.

        The first of them is its own; others may be of structs without a name in it.
        """
        for number in self.holding(members[0], [Kind.STRUCT]):
            type_ = self._type(number)
            if type_.tag == name and all(type_.has_member(member) for member in members):
                return type_
        return None

    def function(self, name: str) -> drgn.Type | None:
        """The type of the function ``name``; None also if it was inlined everywhere."""
        found = self.numbers(name, [Kind.FUNC])
        return self._type(self.word(found[0], 2)) if found else None

    def constant(self, name: str) -> Object | None:
        """The enumerator ``name``."""
        number = self.enum_with(name)
        if number is None:
            return None
        type_ = self._type(number)
        values = {e.name: e.value for e in type_.enumerators or ()}
        return Object(self._prog, type_, values[name])

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
        name, third = self.string(self.word(number, 0)), self.word(number, 2)
        if kind == Kind.INT:
            return self._int(number, name or "")
        if kind == Kind.FLOAT:
            return prog.float_type(name or "", third)
        if kind == Kind.PTR:
            return prog.pointer_type(self._type(third), _POINTER_BYTES)
        if kind == Kind.ARRAY:
            return prog.array_type(self._type(self.word(number, 3)), self.word(number, 5))
        if kind in (Kind.STRUCT, Kind.UNION):
            make = prog.struct_type if kind == Kind.STRUCT else prog.union_type
            return make(name, third, tuple(self._members(number, third)))
        if kind == Kind.FWD:
            return prog.union_type(name) if self.flag(number) else prog.struct_type(name)
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self._enum(number, name, third)
        if kind == Kind.TYPEDEF:
            return prog.typedef_type(name or "", self._type(third))
        if kind in _QUALIFIERS:
            inner = self._type(third)
            return inner.qualified(inner.qualifiers | _QUALIFIERS[kind])
        if kind == Kind.FUNC_PROTO:
            return self._prototype(number, third)
        if kind in (Kind.FUNC, Kind.TYPE_TAG):
            return self._type(third)
        raise BtfError(f"the BTF type {number} is of kind {kind}, which is none of a value")

    def _int(self, number: int, name: str) -> drgn.Type:
        size, encoding = self.word(number, 2), self.word(number, 3) >> 24
        if size not in (1, 2, 4, 8, 16):
            raise BtfError(f"BTF says that {name} has {size} bytes")
        if encoding & 4:
            return self._prog.bool_type(name, size)
        return self._prog.int_type(name, size, bool(encoding & 1))

    def _enum(self, number: int, name: str | None, size: int) -> drgn.Type:
        wide = self._kind[number - 1] == Kind.ENUM64
        if size not in (1, 2, 4, 8):
            raise BtfError(f"BTF says that enum {name} has {size} bytes")
        bits = 64 if wide else 32
        values = []
        for offset, low, *high in self.each(number):
            value = low | high[0] << 32 if high else low
            values.append((self.string(offset) or "", value))
        # before pahole 1.24 nothing says whether values are signed: -1 is likelier than 2^32 - 1
        signed = self.flag(number) or (not wide and any(v >> 31 for _, v in values))
        enumerators = tuple(
            TypeEnumerator(text, v - (1 << bits) if signed and v >> (bits - 1) else v)
            for text, v in values
        )
        integer = self._prog.int_type("int" if signed else "unsigned int", size, signed)
        return self._prog.enum_type(name, integer, enumerators)

    def _prototype(self, number: int, result: int) -> drgn.Type:
        parameters = list(self.each(number))
        variadic = bool(parameters) and parameters[-1] == (0, 0)
        named = [
            TypeParameter(self._promise(type_), self.string(offset))
            for offset, type_ in parameters[: len(parameters) - variadic]
        ]
        return self._prog.function_type(self._type(result), tuple(named), variadic)

    def _members(self, number: int, size: int) -> Iterator[TypeMember]:
        sized_bits = self.flag(number)
        for offset, type_, place in self.each(number):
            bits = place >> 24 if sized_bits else 0
            bit_offset = place & 0xFFFFFF if sized_bits else place
            if bit_offset + bits > size * 8:
                raise BtfError(f"BTF puts a member of type {number} outside of its {size} bytes")
            yield TypeMember(self._promise(type_, bits), self.string(offset), bit_offset)

    def _promise(self, number: int, bits: int = 0) -> Callable[[], Object | drgn.Type]:
        def keep() -> Object | drgn.Type:
            type_ = self._type(number)
            return Object(self._prog, type_, bit_field_size=bits) if bits else type_

        return keep

"""BTF written by hand, as pahole does it: types are numbered from 1 on in the order added."""

from __future__ import annotations

import struct
from collections.abc import Sequence

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST = range(1, 11)
RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(11, 20)
SIGNED, BOOL = 1, 4


class SmallBtf:
    """Collects types; ``bytes()`` makes the section."""

    def __init__(self) -> None:
        self._types = b""
        self._strings = b"\0"
        self._count = 0

    def name(self, text: str) -> int:
        """Its offset in the strings, each of which is there once."""
        if not text:
            return 0
        data = b"\0" + text.encode() + b"\0"
        if data not in self._strings:
            self._strings += data[1:]
        return self._strings.index(data) + 1

    def add(
        self,
        kind: int,
        name: str = "",
        third: int = 0,
        *words: int,
        members: int = 0,
        flag: bool = False,
    ) -> int:
        """A type; ``third``: its size or the type that it refers to. Its number."""
        info = members | kind << 24 | flag << 31
        record = [self.name(name), info, third, *(word & 0xFFFFFFFF for word in words)]
        self._types += struct.pack(f"<{len(record)}I", *record)
        self._count += 1
        return self._count

    def integer(self, name: str, size: int, encoding: int = 0) -> int:
        return self.add(INT, name, size, encoding << 24 | size * 8)

    def struct(
        self,
        name: str,
        size: int,
        members: Sequence[tuple[str, int, int]],
        *,
        kind: int = STRUCT,
        bit_fields: bool = False,
    ) -> int:
        """Members: name, type, offset in bits (and above bit 24 a size, if ``bit_fields``)."""
        words = [word for m in members for word in (self.name(m[0]), m[1], m[2])]
        return self.add(kind, name, size, *words, members=len(members), flag=bit_fields)

    def enum(self, name: str, values: Sequence[tuple[str, int]], *, signed: bool = False) -> int:
        words = [word for text, value in values for word in (self.name(text), value)]
        return self.add(ENUM, name, 4, *words, members=len(values), flag=signed)

    def function(self, name: str, result: int, parameters: Sequence[tuple[str, int]]) -> int:
        words = [word for text, type_ in parameters for word in (self.name(text), type_)]
        prototype = self.add(FUNC_PROTO, "", result, *words, members=len(parameters))
        return self.add(FUNC, name, prototype)

    def bytes(self, version: int = 1) -> bytes:
        """The whole section."""
        sizes = 0, len(self._types), len(self._types), len(self._strings)
        return (
            struct.pack("<HBBIIIII", 0xEB9F, version, 0, 24, *sizes) + self._types + self._strings
        )

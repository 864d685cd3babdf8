"""Kernels of a few structs, variables and bytes of memory: what drgn and Memory make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import drgn
import numpy as np
import numpy.typing as npt
from drgn import Architecture, Object, Platform, Program, TypeKind, TypeMember

from estimator.kernel.memory import Memory

Layout = Mapping[str, tuple[int, str]]  # path of a member: byte offset, "u64" or "i32"


def program(
    structs: Mapping[str, tuple[int, Layout]],
    variables: Mapping[str, int] = {},
    constants: Mapping[str, int] = {},
    pointers: Mapping[str, str] = {},
    objects: Mapping[str, str] = {},
    release: str = "6.12.1",
) -> Program:
    """A Program with ``structs`` (tag: bytes, layout) and ``variables`` by address.

    These are unsigned long, or point to the struct (tag) that ``pointers`` names, or are the one
    that ``objects`` names.
    """
    prog = Program(Platform(Architecture.X86_64))
    prog.register_type_finder("small", _types(structs), enable_index=0)
    text = f"{release}\0".encode()

    def find(prog: Program, name: str, flags: Any, file: str | None) -> Object | None:
        if name == "UTS_RELEASE":
            char = prog.int_type("char", 1, True)
            return Object(prog, prog.array_type(char, len(text)), value=list(text))
        word = _word(prog, "u64")
        if name in variables and drgn.FindObjectFlags.VARIABLE in flags:
            tag = pointers.get(name)
            type_ = prog.pointer_type(prog.type(f"struct {tag}")) if tag else word
            if name in objects:
                type_ = prog.type(f"struct {objects[name]}")
            return Object(prog, type_, address=variables[name])
        if name in constants and drgn.FindObjectFlags.CONSTANT in flags:
            return Object(prog, word, value=constants[name])
        return None

    prog.register_object_finder("small", find, enable_index=0)
    return prog


def _types(structs: Mapping[str, tuple[int, Layout]]) -> Any:
    made: dict[str, drgn.Type] = {}

    def find(prog: Program, kinds: Any, name: str, file: str | None) -> drgn.Type | None:
        if TypeKind.STRUCT not in kinds or name not in structs:
            return None
        if name not in made:
            size, layout = structs[name]
            made[name] = prog.struct_type(name, size, _members(prog, layout))
        return made[name]

    return find


def _members(prog: Program, layout: Layout) -> list[TypeMember]:
    inner: dict[str, dict[str, tuple[int, str]]] = {}
    for path, place in layout.items():
        name, _, rest = path.partition(".")
        inner.setdefault(name, {})[rest] = place
    members = []
    for name, parts in inner.items():
        if "" in parts:
            start, kind = parts[""]
            type_ = _word(prog, kind)
        else:
            start = min(offset for offset, _ in parts.values())
            end = max(offset + 8 for offset, _ in parts.values())
            nested = {path: (offset - start, kind) for path, (offset, kind) in parts.items()}
            type_ = prog.struct_type(None, end - start, _members(prog, nested))
        members.append(TypeMember(type_, name, 8 * start))
    return members


def _word(prog: Program, kind: str) -> drgn.Type:
    if kind == "i32":
        return prog.int_type("int", 4, True)
    return prog.int_type("unsigned long", 8, False)


class Bytes(Memory):
    """``size`` bytes of kernel memory from ``base`` on; words can be put into it."""

    def __init__(self, prog: Program, base: int, size: int) -> None:
        self.prog = prog
        self.direct_map = 0
        self.page_shift, self.page_bytes = 12, 4096
        self._base = base
        self._data = np.zeros(size, np.uint8)
        prog.add_memory_segment(base, size, self._read)

    def put(self, address: int, value: int, size: int = 8) -> None:
        """Write an integer."""
        start = address - self._base
        raw = value.to_bytes(size, "little", signed=value < 0)
        self._data[start : start + size] = np.frombuffer(raw, np.uint8)

    def virtual_run(self, address: int, data: npt.NDArray[np.uint8]) -> bool:
        start = address - self._base
        if start < 0 or start + data.size > len(self._data):
            return False
        data[:] = self._data[start : start + data.size]
        return True

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return self._data[offset : offset + count].tobytes()

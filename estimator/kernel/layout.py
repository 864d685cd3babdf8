"""C structs, from debug information, as NumPy dtypes: thousands of structs in one read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import drgn
import numpy as np
from drgn import Program, TypeKind


def member(
    type_: drgn.Type, path: str, length: int | None = None
) -> tuple[np.dtype[Any], int] | None:
    """The dtype and byte offset of the member ``path`` ("a.b.c") of a C struct; None if absent.

    None too for what is no numbers, as a bit field, or a function in damaged type information.

    Integers, enums and pointers become unsigned or signed integers of their size, arrays of them
    sub-arrays. ``length`` cuts an array, or a struct read as bytes, to its first elements.
    """
    offset = 0
    try:
        for name in path.split("."):
            type_ = type_.unaliased()
            if type_.kind not in (TypeKind.STRUCT, TypeKind.UNION) or not type_.has_member(name):
                return None
            found = type_.member(name)
            if found.bit_field_size is not None or found.bit_offset % 8:
                return None
            offset += found.bit_offset // 8
            type_ = found.type
        return _dtype(type_.unaliased(), length), offset
    except TypeError:  # drgn's, too, of what has no members or no size
        return None


def struct_dtype(
    prog: Program, name: str, members: Mapping[str, str], size: int | None = None
) -> np.dtype[Any]:
    """A dtype for the C type ``name`` with a field for each of ``members`` (field: path).

    The itemsize is that of the C type unless ``size`` is given. Raises LookupError if the type or
    a member does not exist in this kernel.
    """
    type_ = prog.type(name)
    formats, offsets = [], []
    for path in members.values():
        found = member(type_, path)
        if found is None:
            raise LookupError(f"{name} has no member {path}")
        formats.append(found[0])
        offsets.append(found[1])
    return np.dtype(
        {
            "names": list(members),
            "formats": formats,
            "offsets": offsets,
            "itemsize": size or drgn.sizeof(type_),
        }
    )


def has_member(prog: Program, name: str | drgn.Type, path: str) -> bool:
    """Whether the C type ``name`` exists in this kernel and has the member ``path``."""
    try:
        return member(_type(prog, name), path) is not None
    except LookupError:
        return False


def offset(prog: Program, name: str | drgn.Type, path: str) -> int:
    """Byte offset of the member ``path`` in the C type ``name``. Raises LookupError if absent."""
    found = member(_type(prog, name), path)
    if found is None:
        raise LookupError(f"{name} has no member {path}")
    return found[1]


def first_member(prog: Program, name: str | drgn.Type, *paths: str) -> str:
    """The first of ``paths`` that the C type ``name`` has: kernels rename, newest name first.

    Raises LookupError if it has none.
    """
    for path in paths:
        if has_member(prog, name, path):
            return path
    raise LookupError(f"{name} has none of the members {', '.join(paths)}")


def _type(prog: Program, name: str | drgn.Type) -> drgn.Type:
    return prog.type(name) if isinstance(name, str) else name


def _dtype(type_: drgn.Type, length: int | None) -> np.dtype[Any]:
    if type_.kind == TypeKind.ARRAY:
        count = length if length is not None else type_.length or 0
        return np.dtype((_dtype(type_.type.unaliased(), None), (count,)))
    size = drgn.sizeof(type_)
    if type_.kind == TypeKind.POINTER:
        return np.dtype("<u8")
    if type_.kind in (TypeKind.INT, TypeKind.ENUM, TypeKind.BOOL):
        integer = type_.type if type_.kind == TypeKind.ENUM else type_
        signed = integer.kind == TypeKind.INT and integer.is_signed
        return np.dtype(f"<{'i' if signed else 'u'}{size}")
    if size % 8 == 0:  # a bitmap or an opaque word: as words
        return np.dtype(("<u8", (size // 8,))) if size > 8 else np.dtype("<u8")
    if size in (1, 2, 4):
        return np.dtype(f"<u{size}")
    raise TypeError(f"no dtype for {type_.type_name()}")


def has_function(prog: Program, name: str) -> bool:
    """Whether this kernel was built from source that has the function ``name``."""
    try:
        prog.function(name)
    except LookupError:
        return False
    return True


def has_variable(prog: Program, name: str) -> bool:
    """Whether this kernel has the variable ``name``; a function of that name is none."""
    try:
        prog.variable(name)
    except LookupError:
        return False
    return True


def first_variable(prog: Program, *names: str) -> drgn.Object:
    """The first of the variables ``names`` that this kernel has, newest name first.

    Raises LookupError if it has none.
    """
    for name in names:
        if has_variable(prog, name):
            return prog.variable(name)
    raise LookupError(f"none of the variables {', '.join(names)}")


def first_type(prog: Program, *names: str) -> str:
    """The first of the C types ``names`` that this kernel has, newest name first.

    Raises LookupError if it has none.
    """
    for name in names:
        if has_type(prog, name):
            return name
    raise LookupError(f"none of the types {', '.join(names)}")


def has_type(prog: Program, name: str) -> bool:
    """Whether this kernel has the C type ``name``."""
    try:
        prog.type(name)
    except LookupError:
        return False
    return True

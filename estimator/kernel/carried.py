"""A kernel described by itself: its types from its BTF, its symbols from its kallsyms.

Both lie in the memory that is read, of a dump, of a guest and of this machine alike. drgn asks
finders for what it does not know; these are the finders.
"""

from __future__ import annotations

from collections.abc import Sequence

import drgn
from drgn import (
    FaultError,
    FindObjectFlags,
    Object,
    Program,
    Symbol,
    SymbolBinding,
    SymbolKind,
    TypeKind,
)

from estimator.errors import NoDebugInfoError
from estimator.kernel.btf import Btf
from estimator.kernel.kallsyms import Kallsyms, read_kallsyms
from estimator.kernel.variables import type_of

NAME = "btf"


class CarriedSymbols:
    """The finders of one Program."""

    def __init__(self, prog: Program, kallsyms: Kallsyms, btf: Btf) -> None:
        self.kallsyms = kallsyms
        self.btf = btf
        self._objects: dict[tuple[str, FindObjectFlags], Object | None] = {}

    def type(
        self, _prog: Program, kinds: frozenset[TypeKind], name: str, filename: str | None
    ) -> drgn.Type | None:
        """A type finder of drgn; nothing here knows of files."""
        return self.btf.find(kinds, name) if filename is None else None

    def object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        """An object finder of drgn."""
        if filename is not None:
            return None
        key = name, flags
        if key not in self._objects:
            self._objects[key] = self._object(prog, name, flags)
        return self._objects[key]

    def _object(self, prog: Program, name: str, flags: FindObjectFlags) -> Object | None:
        if flags & FindObjectFlags.CONSTANT:
            constant = self.btf.constant(name)
            if constant is not None:
                return constant
        address = self.kallsyms.address(name)
        if address is None:
            return None
        if flags & FindObjectFlags.VARIABLE:
            type_ = type_of(prog, self.btf, name, self.kallsyms.most_bytes)
            if type_ is not None:
                return Object(prog, type_, address=address)
        if flags & FindObjectFlags.FUNCTION and self.kallsyms.is_function(name):
            type_ = self.btf.function(name) or prog.function_type(prog.void_type(), (), True)
            return Object(prog, type_, address=address)
        return None

    def withdraw(self, prog: Program) -> None:
        """Leave ``prog`` to its debug information."""
        for kind in ("type", "object", "symbol"):
            enabled = getattr(prog, f"enabled_{kind}_finders")()
            others = [name for name in enabled if name != NAME]
            getattr(prog, f"set_enabled_{kind}_finders")(others)

    def symbol(
        self, _prog: Program, name: str | None, address: int | None, _one: bool
    ) -> Sequence[Symbol]:
        """A symbol finder of drgn, by name only."""
        found = self.kallsyms.address(name) if name is not None and address is None else None
        if name is None or found is None:
            return []
        size = self.kallsyms.most_bytes(name)
        return [Symbol(name, found, size, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN)]


def carries_symbols(prog: Program) -> bool:
    """Whether ``prog`` knows types by what its kernel carries, and not by debug information."""
    return NAME in prog.enabled_type_finders()


def carry_symbols(prog: Program) -> CarriedSymbols:
    """Let ``prog`` find types and symbols in the memory that it reads.

    Raises NoDebugInfoError if the kernel has none or does not say where, TargetError if they are
    damaged.
    """
    kallsyms = read_kallsyms(prog)
    start, stop = (kallsyms.address(name) for name in ("__start_BTF", "__stop_BTF"))
    if start is None or stop is None or stop <= start:
        raise NoDebugInfoError("this kernel carries no types (CONFIG_DEBUG_INFO_BTF=n)")
    try:
        data = prog.read(start, stop - start)
    except FaultError as error:
        raise NoDebugInfoError(f"the types of this kernel can't be read: {error}") from error
    found = CarriedSymbols(prog, kallsyms, Btf(prog, data))
    prog.register_type_finder(NAME, found.type, enable_index=0)
    prog.register_object_finder(NAME, found.object, enable_index=-1)
    prog.register_symbol_finder(NAME, found.symbol, enable_index=0)
    return found

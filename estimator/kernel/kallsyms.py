"""kallsyms: the names and addresses of a kernel's symbols, as the kernel carries them.

Static variables too, with CONFIG_KALLSYMS_ALL, which distributions set. kernel/kallsyms.c reads
them, scripts/kallsyms.c packs them: names are strings of 256 tokens, each some letters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from estimator.arrays import Words
from estimator.errors import NoDebugInfoError, TargetError
from estimator.kernel import vmcoreinfo
from estimator.kernel.find_kallsyms import find_markers, find_tables, walk_names

_TABLES = (
    "kallsyms_num_syms",
    "kallsyms_names",
    "kallsyms_token_table",
    "kallsyms_token_index",
    "kallsyms_offsets",
)
_WHERE_KNOWN = ("_stext", "init_uts_ns", "swapper_pg_dir")  # to VMCOREINFO too
_TOKENS = 256
_LONGEST_TOKEN = 512
_MOST_SYMBOLS = 1 << 23
_MOST_NAME_BYTES = 64  # packed, on average, with what a symbol has in other tables
# a number for each letter: names of other letters than the one looked for have other sums
_LETTERS = np.random.default_rng(0).integers(1 << 63, size=256, dtype=np.uint64)


class Names:
    """The names of all symbols, packed; a few are looked up, so they are not unpacked.

    ``packed``: for each of ``count`` symbols the length of its name in tokens, and these; behind
    them the markers. A name begins with the class of the symbol in nm(1): b"Dinit_task".
    """

    def __init__(self, packed: bytes, count: int, tokens: list[bytes]) -> None:
        self._packed, self._tokens = packed, tokens
        self._heads, lengths_end = walk_names(packed, count, find_markers(packed, len(packed))[1])
        token_sums = np.array([_sum(token) for token in tokens], np.uint64)
        used = np.frombuffer(packed, np.uint8, int(self._heads[-1]))
        sums = token_sums[used]
        heads = self._heads[:-1]
        firsts = np.array([token[0] if token else 0 for token in tokens])
        sums[heads], sums[lengths_end - 1] = 0, 0
        self._sums = np.add.reduceat(sums, heads) - _LETTERS[firsts[used[lengths_end]]]
        self._name_starts = lengths_end

    def find(self, name: str) -> tuple[int, str] | None:
        """Number and class of the first symbol ``name``; None if there is none."""
        for row in np.flatnonzero(self._sums == _sum(name.encode())).tolist():
            found = self._name(row)
            if found[1:] == name.encode():
                return row, chr(found[0])
        return None

    def _name(self, row: int) -> bytes:
        packed = self._packed[int(self._name_starts[row]) : self._heads[row + 1]]
        return b"".join(self._tokens[token] for token in packed)


class Kallsyms:
    """``addresses``: u64, of each symbol; of per-CPU variables, what is added to a CPU's base."""

    def __init__(self, names: Names, addresses: Words) -> None:
        self.names, self.addresses = names, addresses

    def address(self, name: str) -> int | None:
        """Of the first symbol ``name``; None if there is none."""
        found = self.names.find(name)
        return None if found is None else int(self.addresses[found[0]])

    def is_function(self, name: str) -> bool:
        """Whether the symbol ``name`` lies in a text section."""
        found = self.names.find(name)
        return found is not None and found[1] in "tTwW"

    def most_bytes(self, name: str) -> int:
        """How far it is from ``name`` to the next symbol: what ``name`` names is no longer."""
        start = self.address(name)
        if start is None:
            return 0
        behind = self.addresses[self.addresses > np.uint64(start)]
        return int(behind.min()) - start if len(behind) else 0


def read_kallsyms(prog: Program) -> Kallsyms:
    """The symbols of the kernel that ``prog`` reads, from its memory.

    Raises NoDebugInfoError if they are not found, TargetError if they are damaged.
    """
    told = vmcoreinfo.symbols(prog)
    if told.keys() >= {*_TABLES, "_stext"}:
        return _read(prog, told)
    damage: Exception | None = None
    if "_stext" in told:  # until 5.19: f09bddbd8661
        for tables in find_tables(prog, told["_stext"]):
            try:
                return _read(prog, {**told, **tables})
            except TargetError as error:
                damage = error
    raise damage or NoDebugInfoError("the kernel's own symbol table was not found")


def _read(prog: Program, told: Mapping[str, int]) -> Kallsyms:
    try:
        return _read_tables(prog, told)
    except (FaultError, IndexError, ValueError) as error:
        raise TargetError(f"the kernel's own symbol table is damaged: {error}") from error


def _read_tables(prog: Program, told: Mapping[str, int]) -> Kallsyms:
    count = prog.read_u32(told["kallsyms_num_syms"])
    if not 0 < count < _MOST_SYMBOLS:
        raise ValueError(f"{count} symbols")
    names = _names(prog, told, count)
    offsets = np.frombuffer(prog.read(told["kallsyms_offsets"], 4 * count), "<i4")
    return Kallsyms(names, _addresses(prog, told, offsets, names))


def _names(prog: Program, told: Mapping[str, int], count: int) -> Names:
    """How many bytes they have stands nowhere; the tokens lie behind them."""
    start, behind = told["kallsyms_names"], told["kallsyms_token_table"]
    if not start < behind < start + count * _MOST_NAME_BYTES:
        raise ValueError("its names have no end")
    packed, tokens = prog.read(start, behind - start), _tokens(prog, told)
    try:
        return Names(packed, count, tokens)
    except IndexError as error:
        raise ValueError("its names have no end") from error


def _tokens(prog: Program, told: Mapping[str, int]) -> list[bytes]:
    index = np.frombuffer(prog.read(told["kallsyms_token_index"], 2 * _TOKENS), "<u2").tolist()
    table = prog.read(told["kallsyms_token_table"], index[-1] + _LONGEST_TOKEN)
    return [table[start : table.index(b"\0", start)] for start in index]


def _sum(text: bytes) -> np.uint64:
    return np.add.reduce(_LETTERS[np.frombuffer(text, np.uint8)])


def _addresses(
    prog: Program, told: Mapping[str, int], offsets: npt.NDArray[np.int32], names: Names
) -> Words:
    """Which of the encodings it is shows in the symbols whose address VMCOREINFO tells too."""
    wide = offsets.astype(np.int64)
    place = told["kallsyms_offsets"] + 4 * np.arange(len(offsets), dtype=np.uint64)
    encodings = [place + wide.view(np.uint64)]  # 7.0+, a081b5789255d
    if "kallsyms_relative_base" in told:
        base = np.uint64(prog.read_u64(told["kallsyms_relative_base"]))
        unsigned = offsets.view(np.uint32).astype(np.uint64)
        # until 6.14 with CONFIG_KALLSYMS_ABSOLUTE_PERCPU: per-CPU variables are not relative
        absolute = np.where(offsets < 0, base + ~wide.view(np.uint64), unsigned)
        encodings += [base + unsigned, absolute]
    found = {name: names.find(name) for name in _WHERE_KNOWN if name in told}
    rows = {name: row[0] for name, row in found.items() if row}
    for addresses in encodings:
        if rows and all(int(addresses[row]) == told[name] for name, row in rows.items()):
            return addresses
    raise ValueError("none of its encodings gives the addresses that VMCOREINFO tells")

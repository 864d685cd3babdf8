"""The kernel's own symbol table: each of its encodings, where nothing says where it is, damage."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
from drgn import FaultError

from estimator.errors import NoDebugInfoError, TargetError
from estimator.kernel.find_kallsyms import walk_names
from estimator.kernel.kallsyms import Kallsyms, read_kallsyms
from tests.fake_kernel import FakeKernel
from tests.small_kallsyms import BASE, Symbols, packed, tables

STEXT = BASE + 0x1000
AT = BASE + 0x40_0000
SYMBOLS: Symbols = [
    ("A", "fixed_percpu_data", 0),
    ("T", "_stext", STEXT),
    ("t", "ksm_scan", STEXT + 0x100),
    ("b", "ksm_snac", STEXT + 0x180),
    ("D", "init_task", STEXT + 0x2000),
    ("b", "ksm_scan", STEXT + 0x3000),
    ("t", "x" * 300, STEXT + 0x3100),
    ("d", "last", STEXT + 0x4000),
    *(("r", f"__zeropage{n}", STEXT + 0x5000 + 16 * n) for n in range(600)),
]
NO_LONG_NAME = [symbol for symbol in SYMBOLS if len(symbol[1]) < 128]


class Symbolic(FakeKernel):
    """A kernel that carries kallsyms; ``told``: VMCOREINFO says where."""

    def __init__(self, symbols: Symbols, encoding: str, *, told: bool = True) -> None:
        super().__init__()
        data, places = tables(symbols, encoding, AT)
        if encoding == "place":
            places = {name: at for name, at in places.items() if name != "kallsyms_relative_base"}
        self.write(BASE, bytes(0x1000))
        self.write(AT, data + bytes(1 << 16))
        self.places, self.size = places, len(data)
        known = {"_stext": STEXT} | (dict(places) if told else {})
        lines = [f"SYMBOL({name})={at:x}\n" for name, at in known.items()]
        self.text("VMCOREINFO", "".join(lines).encode())

    def read(self) -> Kallsyms:
        return read_kallsyms(self.prog)


def without_addresses_below(symbols: Symbols, encoding: str) -> Symbols:
    """Only absolute encodings have symbols outside of the kernel."""
    return [s for s in symbols if encoding == "absolute" or s[2] >= BASE]


@pytest.mark.parametrize("encoding", ["place", "absolute", "relative"])
def test_names_and_addresses(encoding: str) -> None:
    symbols = without_addresses_below(SYMBOLS, encoding)
    found = Symbolic(symbols, encoding).read()
    expected: dict[str, int] = {}
    for _, name, address in symbols:
        expected.setdefault(name, address)
    assert {name: found.address(name) for name in expected} == expected
    assert found.address("ksm_sca") is None
    assert found.address("Dinit_task") is None
    assert found.address("") is None


def test_functions_are_in_text() -> None:
    found = Symbolic(NO_LONG_NAME, "absolute").read()
    assert found.is_function("_stext")
    assert found.is_function("ksm_scan")
    assert not found.is_function("init_task")
    assert not found.is_function("none")


def test_nothing_is_longer_than_up_to_the_next_symbol() -> None:
    found = Symbolic(SYMBOLS, "absolute").read()
    assert found.most_bytes("init_task") == 0x1000
    assert found.most_bytes("last") == 0x1000
    assert found.most_bytes("__zeropage599") == 0
    assert found.most_bytes("none") == 0


@pytest.mark.parametrize("count", [257, 512, 600])
@pytest.mark.parametrize("encoding", ["absolute", "relative"])
def test_found_where_nothing_says_where_it_is(encoding: str, count: int) -> None:
    symbols = without_addresses_below(NO_LONG_NAME[1:], encoding)[:count]
    kernel = Symbolic(symbols, encoding, told=False)
    kernel.write(AT - 0x100, bytes(0x10) + b"".join(b"%d\0" % n for n in range(10)))
    found = kernel.read()
    assert [found.address(name) for _, name, _ in symbols[:2]] == [a for _, _, a in symbols[:2]]
    assert found.address(symbols[-1][1]) == symbols[-1][2]


def test_not_found() -> None:
    kernel = Symbolic(NO_LONG_NAME, "absolute", told=False)
    kernel.write(kernel.places["kallsyms_token_index"], b"\1")
    with pytest.raises(NoDebugInfoError, match="symbol table was not found"):
        kernel.read()
    kernel = Symbolic(NO_LONG_NAME, "absolute", told=False)
    kernel.write(kernel.places["kallsyms_token_table"] + 4, b"x")  # behind the first token
    with pytest.raises(NoDebugInfoError, match="symbol table was not found"):
        kernel.read()
    kernel.text("VMCOREINFO", b"OSRELEASE=5.10.0\n")
    with pytest.raises(NoDebugInfoError, match="symbol table was not found"):
        kernel.read()


@pytest.mark.parametrize(
    ("table", "data", "message"),
    [
        ("num_syms", bytes(4), "0 symbols"),
        ("num_syms", b"\xff" * 4, "4294967295 symbols"),
        ("names", b"\xff\xff" * 4000, "names have no end"),
        ("relative_base", b"\1", "none of its encodings"),
        ("token_index", b"\xff" * 512, "damaged"),
    ],
)
def test_damage_is_told(table: str, data: bytes, message: str) -> None:
    kernel = Symbolic(NO_LONG_NAME, "absolute")
    kernel.write(kernel.places[f"kallsyms_{table}"], data)
    with pytest.raises(TargetError, match=message):
        kernel.read()


def test_a_part_that_cannot_be_read_is_damage() -> None:
    kernel = Symbolic(NO_LONG_NAME, "absolute")
    kernel.lose(kernel.places["kallsyms_token_index"], FaultError("gone", AT))
    with pytest.raises(TargetError, match="damaged: gone"):
        kernel.read()


def test_flipped_bits_never_end_in_anything_else() -> None:
    numbers = random.Random(0)
    for _ in range(40):
        kernel = Symbolic(NO_LONG_NAME[:300], "absolute", told=numbers.random() < 0.5)
        for _ in range(numbers.randint(1, 6)):
            kernel.write(AT + numbers.randrange(kernel.size), bytes([numbers.randrange(256)]))
        with contextlib.suppress(TargetError, NoDebugInfoError):
            kernel.read().address("init_task")


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_names_are_found_from_marker_to_marker_and_without(count: int) -> None:
    """Markers that lead elsewhere, too few and too many of them are passed over."""
    names = [packed("t" + "x" * (n % 140) + str(n)) for n in range(count)]
    starts = np.cumsum([0, *map(len, names)])
    marks = starts[:-1:256]
    expected = [
        starts.tolist(),
        [s + 1 + (n[0] >= 128) for s, n in zip(starts, names, strict=False)],
    ]
    wrong = marks.copy()
    wrong[-1] += 1
    for given in (marks, wrong, marks[:-1], np.append(marks, starts[-1])):
        heads, begins = walk_names(b"".join(names), count, given)
        assert [heads.tolist(), begins.tolist()] == expected

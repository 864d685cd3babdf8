"""Command lines, read from page tables and frames built by hand."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from drgn import Program

from estimator.kernel.cmdlines import read_cmdlines
from estimator.kernel.memory import Memory
from tests.test_pagetable import FakeMemory, Tables, encode

ARGUMENTS = b"/bin/server\0--threads\x004\0"
TOP = 1 << 47  # of the address space


def mms(roots: list[int], spans: list[tuple[int, int]]) -> Any:
    rows = [(root << 12, start, end) for root, (start, end) in zip(roots, spans, strict=True)]
    names = ("pgd", "arg_start", "arg_end")
    return np.array(rows, [(name, np.uint64) for name in names])


def page_of(tables: Tables, mm: int, number: int, pfn: int, content: bytes, at: int) -> None:
    tables.set(mm, number, encode(pfn, "plain"))
    tables.frames[pfn] = np.zeros(512, np.uint64)
    tables.frames[pfn].view(np.uint8)[at : at + len(content)] = np.frombuffer(content, np.uint8)


def read(tables: Tables, structs: Any) -> list[str | None]:
    return read_cmdlines(cast(Program, tables), cast(Memory, FakeMemory(tables)), structs)


def test_a_command_line_may_cross_a_page() -> None:
    tables = Tables(4)
    last = (TOP >> 12) - 1
    page_of(tables, 0, last - 1, 0x900, ARGUMENTS[:5], 4091)
    page_of(tables, 0, last, 0x901, ARGUMENTS[5:], 0)
    page_of(tables, 1, last, 0x902, ARGUMENTS, 100)
    start = TOP - 4096
    structs = mms(
        tables.roots,
        [(start - 5, start - 5 + len(ARGUMENTS)), (start + 100, start + 100 + len(ARGUMENTS))],
    )
    assert read(tables, structs) == ["/bin/server --threads 4"] * 2


def test_what_is_not_there_is_unknown() -> None:
    tables = Tables(4)
    last = (TOP >> 12) - 1
    tables.set(0, last, encode(3, "swap"))
    page_of(tables, 1, last, 0x902, b"x", 0)
    tables.lost.add(0x902)
    start = TOP - 4096
    assert read(tables, mms(tables.roots, [(start, start + 9)] * 2)) == [None, None]


def test_half_of_a_command_line_is_none() -> None:
    tables = Tables(4)
    last = (TOP >> 12) - 1
    page_of(tables, 0, last - 1, 0x900, ARGUMENTS[:5], 4091)
    start = TOP - 4096 - 5
    spans = [(start, start + len(ARGUMENTS)), (start + 9, start)]  # and one that ends first
    assert read(tables, mms(tables.roots, spans)) == [None, None]


def test_no_more_than_four_kib_of_a_long_one() -> None:
    tables = Tables(5)
    for number in range(3):
        page_of(tables, 0, 0x1000 + number, 0x900 + number, b"a" * 4096, 0)
    spans = [(0x1000 << 12, 0x1003 << 12), (0, 0)]
    assert read(tables, mms(tables.roots, spans)) == ["a" * 4096, None]

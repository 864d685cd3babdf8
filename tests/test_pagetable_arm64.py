"""Page tables of arm64: of every size of a page, number of levels and generation of entries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from drgn import FaultError, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.kernel.arch import page_table_format
from estimator.kernel.arch.aarch64 import direct_map
from estimator.kernel.memory import Memory
from tests.arm64_tables import GENERATIONS, SHAPES, Shape, Tables
from tests.test_pagetable import walk

KINDS = ("plain", "readonly", "clean", "dirty-cont", "none", "swap")


@st.composite
def systems(draw: st.DrawFn) -> tuple[Tables, list[tuple[int, int, int, str]]]:
    """Tables, and entries for them: mm, page, PFN, kind."""
    tables = Tables(draw(st.sampled_from(SHAPES)), draw(st.sampled_from(GENERATIONS)))
    shape = tables.shape
    end = 1 << shape.address_bits - shape.page_shift
    wide = shape.address_bits == 52
    most = 1 << (52 if wide else 48) - shape.page_shift
    page = st.one_of(st.integers(0, 20_000), st.integers(end - 20_000, end - 1))
    pfn = st.one_of(st.integers(1, 1 << 20), st.integers(1, most - 1))
    entry = st.tuples(st.integers(0, 1), page, pfn, st.sampled_from(KINDS))
    return tables, draw(st.lists(entry, max_size=40, unique_by=lambda e: e[:2]))


@settings(max_examples=150, deadline=None)
@given(systems())
def test_every_entry_in_a_range_is_found_as_it_was_written(
    system: tuple[Tables, list[tuple[int, int, int, str]]],
) -> None:
    tables, entries = system
    for mm, page, pfn, kind in entries:
        tables.set(mm, page, tables.encode(pfn, kind))
    end = 1 << tables.shape.address_bits - tables.shape.page_shift
    ranges = [
        (mm, first, stop) for mm in (0, 1) for first, stop in ((9, 15_000), (end - 15_000, end))
    ]
    _, found = walk(tables, ranges)
    expected: dict[tuple[int, int], tuple[Any, ...]] = {}
    for mm, page, pfn, kind in entries:
        number = [i for i, (m, a, b) in enumerate(ranges) if m == mm and a <= page < b]
        if number:
            expected[mm, page] = (
                kind != "swap",
                pfn,
                kind == "none",
                kind in ("plain", "clean"),
                kind in ("plain", "dirty-cont"),
                False,
                number[0],
            )
    for facts in (found, expected):  # an entry of swap names no frame
        for key, values in facts.items():
            facts[key] = tuple(map(int, values)) if values[0] else (0,)
    assert found == expected


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kind", ["", "none", "split"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.levels > 2])
def test_a_block_is_a_mapping_of_each_of_its_pages(
    shape: Shape, kind: str, generation: str
) -> None:
    tables = Tables(shape, generation)
    pages = 1 << tables.bits
    pfn = 5 << tables.bits
    tables.set(0, pages, tables.block(pfn, kind), level=1)
    tables.set(0, 2 * pages, tables.encode(77, "plain"))
    _, found = walk(tables, [(0, pages + 88, 2 * pages + 5)])
    writable = kind != "none"
    dirty = writable
    assert found[0, pages + 88] == (1, pfn + 88, kind == "none", writable, dirty, 1, 0)
    assert found[0, 2 * pages - 1] == (1, pfn + pages - 1, kind == "none", writable, dirty, 1, 0)
    assert found[0, 2 * pages][:2] == (1, 77)
    assert len(found) == pages - 88 + 1


@pytest.mark.parametrize("generation", GENERATIONS)
def test_swap_types_and_migration_entries_of_blocks(generation: str) -> None:
    tables = Tables(SHAPES[1], generation)
    prog = cast(Program, tables)
    format_ = page_table_format(prog)
    value = np.array([tables.encode(pfn, "swap") for pfn in (1, 0xFFFF_FFFF)], np.uint64)
    entries = format_.of_leaves(value, np.zeros(2, np.int64), value, np.zeros(2, np.bool_))
    assert entries.swap_type.tolist() == [3, 3]
    assert not entries.present.any()
    tables.set(0, 512, tables.encode(99, "swap"), level=1)
    walker, found = walk(tables, [(0, 500, 600)])
    assert found == {}
    assert walker.nonpresent_pages.tolist() == [600 - 512]


@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_levels_as_addresses_need(shape: Shape) -> None:
    format_ = page_table_format(cast(Program, Tables(shape)))
    assert (format_.levels, format_.top_bytes) == (shape.levels, 8 * shape.top)


def test_entries_of_prot_none_that_are_valid_are_refused() -> None:
    class Damaged(Tables):
        def __getitem__(self, name: str) -> Any:
            return (
                type(super().__getitem__(name))([1])
                if name == "protection_map"
                else (super().__getitem__(name))
            )

    with pytest.raises(FaultError, match="PROT_NONE are valid"):
        page_table_format(cast(Program, Damaged(SHAPES[0])))


@pytest.mark.parametrize("address_bits", [48, 52])
def test_where_physical_memory_is_mapped(address_bits: int) -> None:
    """What a guest of Debian's 6.12 said with and without LPA2: PHYS_OFFSET may be negative."""
    offset = {52: 0x4000_0000, 48: 0xFFF0_9F0C_8000_0000}[address_bits]

    class Told:
        def __getitem__(self, name: str) -> Any:
            text = f"NUMBER(VA_BITS)=52\nNUMBER(PHYS_OFFSET)={offset:#x}\n".encode()
            return SimpleNamespace(string_=lambda: text)

    # memory begins at 1 GiB: the kernel maps it there, at random above _PAGE_OFFSET(address_bits)
    first = (direct_map(cast(Program, Told())) + 0x4000_0000) % (1 << 64)
    assert first == {52: 0xFFF0_0000_0000_0000, 48: 0xFFFF_60F3_C000_0000}[address_bits]


@pytest.mark.parametrize(
    ("address", "untagged"),
    [
        (0xF3FF_0000_1234_5678, 0xFFFF_0000_1234_5678),  # bit 55: the kernel's half
        (0xFFFF_0000_1234_5678, 0xFFFF_0000_1234_5678),
        (0x0000_FFFF_1234_5678, 0x0000_FFFF_1234_5678),
    ],
)
def test_tags_of_kasan_in_pointers(address: int, untagged: int) -> None:
    arm64, x86 = (Memory.__new__(Memory) for _ in range(2))
    arm64._tagged = True
    arm64.direct_map = 0xFFFF_0000_0000_0000
    given = np.array([address], np.uint64)
    assert arm64.untagged(given).tolist() == [untagged]
    assert arm64.physical(given).tolist() == [(untagged - arm64.direct_map) % (1 << 64)]
    assert x86.untagged(given).tolist() == [address]

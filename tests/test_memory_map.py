"""The kernel's map of its memory, out of its image, without page tables."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from drgn import Architecture, Platform

from estimator.kernel.dump.find_vmcoreinfo import KERNEL_MAP, FoundVmcoreinfo
from estimator.kernel.dump.memory_only import open_memory
from estimator.kernel.dump.split import inspect_dump
from estimator.kernel.memory.intervals import Intervals
from estimator.kernel.memory_map import memory_map
from tests.small_kallsyms import BASE, tables
from tests.test_find_vmcoreinfo import text_of

PHYS_BASE = 0x40000000
IMAGE = BASE - KERNEL_MAP + PHYS_BASE  # physical
MAP, COUNT, AT = 0x800, 0x700, 0x2000  # in the image
RANGES = [(0, 0x100), (0x100, 0x80000), (0x100000, 0x180000)]  # PFNs


def map_of(path: Path, count: int, *names: str) -> Intervals | None:
    """As read from raw memory whose kernel has the symbols ``names``, and page tables nowhere."""
    places = {"_stext": 0x10, "pfn_mapped": MAP, "nr_pfn_mapped": COUNT}
    symbols = [("T" if name == "_stext" else "b", name, BASE + places[name]) for name in names]
    symbols.append(("b", "behind_it", BASE + MAP + 16 * 8))
    data, where = tables(symbols, "relative", BASE + AT)
    image = bytearray(AT) + data + bytes(1 << 16)
    image[COUNT : COUNT + 4] = struct.pack("<i", count)
    words = [number for pair in RANGES for number in pair]
    image[MAP : MAP + 8 * len(words)] = struct.pack(f"<{len(words)}Q", *words)
    path.write_bytes(image)
    told = {"swapper_pg_dir": BASE, "_stext": BASE + 0x10, **where}
    lines = "".join(f"SYMBOL({name})={address:x}\n" for name, address in told.items())
    text = text_of("6.12.1", IMAGE, PHYS_BASE) + lines.encode()
    dump = inspect_dump([Path(f"{path}@{IMAGE:#x}")])
    prog = open_memory(dump, Platform(Architecture.X86_64), text)
    return memory_map(prog, FoundVmcoreinfo(text, 0))


def test_ranges_that_adjoin_are_one(tmp_path: Path) -> None:
    found = map_of(tmp_path / "mem", 3, "_stext", "pfn_mapped", "nr_pfn_mapped")
    assert found is not None
    assert found.start.tolist() == [0, 0x100000000]
    assert found.end.tolist() == [0x80000000, 0x180000000]


@pytest.mark.parametrize("names", [("_stext",), ("_stext", "pfn_mapped"), ("pfn_mapped",)])
def test_a_kernel_that_does_not_tell(names: tuple[str, ...], tmp_path: Path) -> None:
    assert map_of(tmp_path / "mem", 3, *names) is None


@pytest.mark.parametrize("count", [-1, 0, 9, 1 << 20])
def test_a_count_that_makes_no_sense(count: int, tmp_path: Path) -> None:
    """The table has room for eight ranges."""
    assert map_of(tmp_path / "mem", count, "_stext", "pfn_mapped", "nr_pfn_mapped") is None

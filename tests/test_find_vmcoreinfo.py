"""VMCOREINFO in the memory of a dump without a note of it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from estimator.errors import TargetError
from estimator.kernel.dump.file import inspect
from estimator.kernel.dump.find_vmcoreinfo import find_vmcoreinfo

PAGE = 4096
RAM = 1 << 20  # where the second piece of memory begins
KERNEL_MAP = 0xFFFFFFFF80000000
Memory = dict[int, bytes]


def text_of(release: str, uts_physical: int, phys_base: int = 0x4000) -> bytes:
    virtual = KERNEL_MAP + uts_physical - phys_base
    lines = [
        f"OSRELEASE={release}",
        "PAGESIZE=4096",
        f"SYMBOL(init_uts_ns)={virtual:x}",
        f"NUMBER(phys_base)={phys_base}",
    ]
    return "\n".join(lines).encode() + b"\n"


def uts(release: str) -> bytes:
    return b"\1\0\0\0Linux\0" + bytes(50) + b"host\0" + bytes(50) + release.encode() + b"\0"


def dump_of(path: Path, memory: Memory, pages: int = 16) -> Path:
    """An ELF core of two pieces of memory, from 0 and from RAM on."""
    image = {start: bytearray(pages * PAGE) for start in (0, RAM)}
    for address, data in memory.items():
        start = RAM if address >= RAM else 0
        image[start][address - start : address - start + len(data)] = data
    headers, offset = b"", 64 + 2 * 56
    for start, piece in image.items():
        size = len(piece)
        headers += struct.pack("<IIQQQQQQ", 1, 7, offset, 0, start, size, size, 0)
        offset += size
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    path.write_bytes(head + headers + b"".join(bytes(piece) for piece in image.values()))
    return path


def found_in(path: Path, memory: Memory) -> tuple[int, bytes] | None:
    found = find_vmcoreinfo(inspect(dump_of(path, memory)))
    return (found.address, found.text) if found else None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "core"


@pytest.mark.parametrize("at", [3 * PAGE, RAM, RAM + 15 * PAGE])
def test_the_page_is_found_by_what_it_leads_to(path: Path, at: int) -> None:
    text = text_of("6.12.1-amd64", RAM + PAGE + 64)
    memory = {at: text, RAM + PAGE + 64: uts("6.12.1-amd64")}
    assert found_in(path, memory) == (at, text)


@pytest.mark.parametrize(
    "memory",
    [
        {},
        {PAGE: text_of("6.12.1", RAM)},  # nothing is there
        {PAGE: text_of("6.12.1", RAM), RAM: uts("6.12.10")},  # another release
        {PAGE: text_of("6.12.1", 64 << 20), RAM: uts("6.12.1")},  # outside of the dump
        {PAGE + 16: text_of("6.12.1", RAM), RAM: uts("6.12.1")},  # in a file or a log
        {PAGE: b"OSRELEASE=6.12.1\n", RAM: uts("6.12.1")},
        {PAGE: text_of("$(reboot)", RAM), RAM: uts("$(reboot)")},
    ],
)
def test_what_only_looks_like_it(path: Path, memory: Memory) -> None:
    assert found_in(path, memory) is None


def test_a_hosts_own_and_not_its_guests(path: Path) -> None:
    own, guest = text_of("6.12.1", RAM), text_of("5.10.0", RAM + 2 * PAGE)
    memory = {PAGE: guest, 2 * PAGE: own, RAM: uts("6.12.1"), RAM + PAGE: uts("5.10.0")}
    assert found_in(path, memory) == (2 * PAGE, own)


def test_copies_are_one_and_two_kernels_are_none(path: Path) -> None:
    own, other = text_of("6.12.1", RAM), text_of("5.10.0", RAM + PAGE)
    memory = {PAGE: own, 2 * PAGE: own, RAM: uts("6.12.1")}
    assert found_in(path, memory) == (PAGE, own)
    with pytest.raises(TargetError, match="2 kernels in it"):
        found_in(path, memory | {3 * PAGE: other, RAM + PAGE: uts("5.10.0")})

"""Dumps of architectures that are not read, refused by name before anything is looked for."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from estimator.errors import CannotAnswerError
from estimator.kernel.dump.file import inspect
from estimator.kernel.dump.kdump_headers import SIGNATURE
from tests.commands import estimator

CORE = 4


def elf(machine: int, *, bits: int = 64, order: str = "<") -> bytes:
    """The header of a core dump."""
    ident = bytes([0x7F, *b"ELF", 1 if bits == 32 else 2, 1 if order == "<" else 2, 1])
    return (ident.ljust(16, b"\0") + struct.pack(f"{order}HHI", CORE, machine, 1)).ljust(128, b"\0")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (elf(40, bits=32), r"arm \(32-bit\)"),
        (elf(243), "riscv"),
        (elf(21), "ppc64"),
        (elf(21, order=">"), "ppc64"),
        (elf(22, order=">"), "s390x"),
        (elf(3, bits=32), "i386"),
        (elf(999), "ELF machine 999"),
    ],
)
def test_an_elf_dump(tmp_path: Path, head: bytes, name: str) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(head)
    with pytest.raises(CannotAnswerError, match=f"is of {name}, .* x86_64 and arm64"):
        inspect(path)


@pytest.mark.parametrize(
    ("machine", "block", "order"),
    [("ppc64le", 65536, "<"), ("s390x", 4096, ">"), ("armv7l", 4096, "<"), ("riscv64", 4096, "<")],
)
def test_a_kdump(tmp_path: Path, machine: str, block: int, order: str) -> None:
    uts = [machine.encode() if n == 4 else b"" for n in range(6)]
    header = SIGNATURE + struct.pack(f"{order}i65s65s65s65s65s65s", 6, *uts)
    header = header.ljust(424, b"\0") + struct.pack(f"{order}II", 0, block)
    path = tmp_path / "vmcore"
    path.write_bytes(header.ljust(4 * 65536, b"\0"))
    with pytest.raises(CannotAnswerError, match=f"is of {machine}, .* x86_64 and arm64"):
        inspect(path)


def test_the_command_says_so_before_symbols_are_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(elf(243))
    done = estimator("predict", "--core", path)
    assert done.returncode == 2  # predict takes a snapshot
    done = estimator("run", "--core", path)
    assert done.returncode == 5
    assert "is of riscv" in done.stderr
    assert "symbols" not in done.stderr

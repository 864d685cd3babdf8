"""Of what architecture a dump is, by its headers: what is not read is refused by name."""

from __future__ import annotations

from pathlib import Path

from estimator.errors import CannotAnswerError

READ = ("x86_64", "aarch64")
"""Those that are read, as in ``uname -m``."""
SUPPORTED = "x86_64 and arm64 (aarch64)"
_ELF_MACHINES = {  # include/uapi/linux/elf-em.h
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm (32-bit)",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
}
_LITTLE_ENDIAN = 1  # ELFDATA2LSB


def elf_machine(head: bytes) -> str:
    """What an ELF file that begins with ``head`` is of; x86_64 and aarch64 as in ``uname -m``."""
    order = "little" if head[5] == _LITTLE_ENDIAN else "big"
    number = int.from_bytes(head[18:20], order)  # type: ignore[arg-type]
    return _ELF_MACHINES.get(number, f"ELF machine {number}")


def refuse_machine(path: Path, machine: str) -> None:
    """Raise CannotAnswerError unless dumps of ``machine`` are read; "": not known, so it may be."""
    if machine and machine not in READ:
        raise CannotAnswerError(
            f"{path} is of {machine}, whose page tables can't be decoded; supported are {SUPPORTED}"
        )

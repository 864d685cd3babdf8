"""What kind of file a crash dump is, and where an ELF dump keeps physical memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.errors import TargetError

_EHDR = np.dtype(
    [("ident", "u1", 16), ("type", "<u2"), ("machine", "<u2"), ("version", "<u4")]
    + [("entry", "<u8"), ("phoff", "<u8"), ("shoff", "<u8"), ("flags", "<u4")]
    + [("ehsize", "<u2"), ("phentsize", "<u2"), ("phnum", "<u2")]
    + [("shentsize", "<u2"), ("shnum", "<u2"), ("shstrndx", "<u2")]
)
_PHDR = np.dtype(
    [("type", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("vaddr", "<u8"), ("paddr", "<u8")]
    + [("filesz", "<u8"), ("memsz", "<u8"), ("align", "<u8")]
)
_SHDR_INFO_OFFSET = 44
_ET_CORE = 4
_PT_LOAD = 1
_PN_XNUM = 0xFFFF


@dataclass(frozen=True)
class DumpFile:
    """A crash dump as a file.

    ``format``: "elf", "kdump" (makedumpfile's compressed format) or "flattened". ``loads``: the
    PT_LOADs of an ELF dump, dtype of ``Elf64_Phdr``, by ``paddr``. ``missing_bytes``: how much
    shorter the file is than its headers say.
    """

    path: Path
    format: str
    size_bytes: int
    loads: npt.NDArray[Any]
    missing_bytes: int


def inspect(path: Path) -> DumpFile:
    """Look at the headers of ``path``. Raises TargetError if it is no kernel dump."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            size = os.fstat(file.fileno()).st_size
            if head[:4] == b"\x7fELF":
                loads = _elf_loads(path, file, head)
                end = int((loads["offset"] + loads["filesz"]).max(initial=0))
                return DumpFile(path, "elf", size, loads, max(0, end - size))
    except FileNotFoundError as error:
        raise TargetError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise TargetError(f"{path} is a directory", hint="name the dump file in it") from error
    except PermissionError as error:
        raise TargetError(f"{path} may not be read by you", hint="try: sudo") from error
    no_loads = np.empty(0, _PHDR)
    if head[:8] == b"KDUMP   ":
        return DumpFile(path, "kdump", size, no_loads, 0)
    if head[:12] == b"makedumpfile":
        return DumpFile(path, "flattened", size, no_loads, 0)
    if not head:
        raise TargetError(f"{path} is empty")
    raise TargetError(
        f"{path} is no crash dump: neither an ELF core nor a makedumpfile dump",
        hint="a vmcore is made by kdump, virsh dump --memory-only or QEMU's dump-guest-memory",
    )


def _elf_loads(path: Path, file: Any, head: bytes) -> npt.NDArray[Any]:
    if len(head) < _EHDR.itemsize:
        raise TargetError(f"{path} is cut off in its first {len(head)} bytes")
    ehdr = np.frombuffer(head, _EHDR, 1)[0]
    if ehdr["ident"][4] != 2 or ehdr["ident"][5] != 1:
        raise TargetError(f"{path} is not a 64-bit little-endian ELF file")
    if ehdr["type"] != _ET_CORE:
        raise TargetError(
            f"{path} is an ELF file but no core dump",
            hint="if it is a vmlinux, pass it with --symbols",
        )
    count = int(ehdr["phnum"])
    if count == _PN_XNUM:
        file.seek(int(ehdr["shoff"]) + _SHDR_INFO_OFFSET)
        count = int.from_bytes(file.read(4), "little")
    file.seek(int(ehdr["phoff"]))
    raw = file.read(count * _PHDR.itemsize)
    if len(raw) < count * _PHDR.itemsize:
        raise TargetError(f"{path} is cut off in its program headers")
    headers = np.frombuffer(raw, _PHDR)
    loads: npt.NDArray[Any] = headers[headers["type"] == _PT_LOAD]
    loads.sort(order="paddr")
    return loads

"""What kind of file a crash dump is, and where an ELF dump keeps physical memory."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from estimator.collect.limits import own_limits
from estimator.errors import TargetError
from estimator.kernel.dump.foreign import refuse_foreign
from estimator.kernel.dump.kdump_headers import (
    FLAT_SIGNATURE,
    SIGNATURE,
    KdumpHeader,
    KdumpPages,
    flattened_to_its_end,
    read_header,
)

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
_MOST_HEADERS = 1_000_000
_MOST_BYTES = 1 << 52  # of physical memory


@dataclass(frozen=True)
class DumpFile:
    """A crash dump as a file.

    ``format``: "elf", "kdump" (makedumpfile's compressed format) or "flattened" (the same, as it
    is written to a pipe). ``loads``: the PT_LOADs of an ELF dump, dtype of ``Elf64_Phdr``, by
    ``paddr``. ``kdump``: the headers of a kdump file. ``missing_bytes``: how much shorter the file
    is than its headers say, at least. ``cut``: what is wrong with the end of the file, or "".
    ``parts``: the files of a split dump, by PFN; ``path`` and ``kdump`` are of the first one then.
    ``vmcoreinfo_address``: where VMCOREINFO was found in memory, if there was no note of it, or a
    wrong one (``wrong_vmcoreinfo``).
    """

    path: Path
    format: str
    size_bytes: int
    loads: npt.NDArray[Any]
    kdump: KdumpHeader | None = None
    missing_bytes: int = 0
    cut: str = ""
    parts: tuple[DumpFile, ...] = ()
    vmcoreinfo_address: int | None = None
    wrong_vmcoreinfo: bool = False

    @property
    def name(self) -> str:
        """The file or files, for a sentence."""
        return ", ".join(str(part.path) for part in self.parts or (self,))


def inspect(path: Path) -> DumpFile:
    """Look at the headers of ``path``. Raises TargetError if it is no kernel dump."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise TargetError(
                f"{path} is no regular file: a pipe, a socket or a device can't be read twice",
                hint="write it to a file first",
            )
        with own_limits(), path.open("rb") as file:
            return _inspect(path, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise TargetError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise TargetError(f"{path} is a directory", hint="name the dump file in it") from error
    except PermissionError as error:
        raise TargetError(f"{path} may not be read by you", hint="try: sudo") from error
    except OSError as error:
        raise TargetError(f"{path} can't be read: {error.strerror}") from error


def _inspect(path: Path, file: BinaryIO, size: int) -> DumpFile:
    head = file.read(64)
    if head[:4] == b"\x7fELF":
        loads = _elf_loads(path, file, head, size)
        end = int((loads["offset"] + loads["filesz"]).max(initial=0))
        return DumpFile(path, "elf", size, loads, None, *_cut(path, size, end - size))
    no_loads = np.empty(0, _PHDR)
    if head.startswith(FLAT_SIGNATURE):
        header = read_header(path, file, flattened=True)
        cut = "" if flattened_to_its_end(file, size) else f"{path} is cut off: it has no end mark"
        return DumpFile(path, "flattened", size, no_loads, header, 0, cut)
    if head.startswith(SIGNATURE):
        header = read_header(path, file, flattened=False)
        missing = KdumpPages(path, header).missing_bytes
        return DumpFile(path, "kdump", size, no_loads, header, *_cut(path, size, missing))
    if not head:
        raise TargetError(f"{path} is empty")
    refuse_foreign(path, head)
    raise TargetError(
        f"{path} is no crash dump: neither an ELF core nor a makedumpfile dump",
        hint="a vmcore is made by kdump, virsh dump --memory-only or QEMU's dump-guest-memory",
    )


def _cut(path: Path, size: int, missing: int) -> tuple[int, str]:
    if missing <= 0:
        return 0, ""
    return missing, f"{path} is cut off: it has {size:,} of at least {size + missing:,} bytes"


def _elf_loads(path: Path, file: BinaryIO, head: bytes, size: int) -> npt.NDArray[Any]:
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
        section = int(ehdr["shoff"]) + _SHDR_INFO_OFFSET
        if section + 4 > size:
            raise TargetError(f"{path} is cut off before its section header")
        file.seek(section)
        count = int.from_bytes(file.read(4), "little")
    if count > _MOST_HEADERS:
        raise TargetError(f"{path} is damaged: {count:,} program headers are beyond all dumps")
    start = int(ehdr["phoff"])
    if start + count * _PHDR.itemsize > size:
        raise TargetError(f"{path} is cut off in its program headers")
    file.seek(start)
    raw = file.read(count * _PHDR.itemsize)
    headers = np.frombuffer(raw, _PHDR)
    loads: npt.NDArray[Any] = headers[headers["type"] == _PT_LOAD]
    for begin, length in (("offset", "filesz"), ("paddr", "filesz"), ("paddr", "memsz")):
        if (loads[begin] > _MOST_BYTES).any() or (loads[length] > _MOST_BYTES).any():
            raise TargetError(f"{path} is damaged: a program header is beyond all memory")
    loads.sort(order="paddr")
    return loads

"""What kind of file a crash dump is, and where an ELF dump keeps physical memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from estimator.collect.limits import own_limits
from estimator.errors import AS_ROOT, TargetError
from estimator.kernel.dump import avml, lime
from estimator.kernel.dump.foreign import refuse_foreign
from estimator.kernel.dump.kdump_headers import (
    FLAT_SIGNATURE,
    SIGNATURE,
    KdumpHeader,
    KdumpPages,
    flattened_to_its_end,
    read_header,
)
from estimator.kernel.dump.loads import MOST_BYTES, MOST_LOADS, PHDR, PT_LOAD, Loads
from estimator.kernel.dump.machine import elf_machine, refuse_machine

EHDR = np.dtype(
    [("ident", "u1", 16), ("type", "<u2"), ("machine", "<u2"), ("version", "<u4")]
    + [("entry", "<u8"), ("phoff", "<u8"), ("shoff", "<u8"), ("flags", "<u4")]
    + [("ehsize", "<u2"), ("phentsize", "<u2"), ("phnum", "<u2")]
    + [("shentsize", "<u2"), ("shnum", "<u2"), ("shstrndx", "<u2")]
)
"""An Elf64_Ehdr."""
_MAGICS = {"elf": b"\x7fELF", "flattened": FLAT_SIGNATURE, "kdump": SIGNATURE, **lime.MAGICS}
_SHDR_INFO_OFFSET = 44
_NAMES_BYTES = 1 << 16
_ET_CORE = 4
_PN_XNUM = 0xFFFF


@dataclass(frozen=True)
class DumpFile:
    """A crash dump as a file.

    ``format``: "elf", "kdump" (makedumpfile's compressed format), "flattened" (the same, as it is
    written to a pipe), or "raw", "lime", "avml": memory without a dump's headers. ``loads``: what
    it holds of physical memory, by address, of all formats but kdump's; of an AVML file the offsets
    are those in ``unpacked``, what it unpacks to. ``kdump``: the headers of a kdump file.
    ``missing_bytes``: how much shorter the file is than its headers say, at least. ``cut``: what is
    wrong with the end of the file, or "". ``parts``: the files of a split dump, by PFN, or of raw
    memory, by address; ``path``, ``loads`` and ``kdump`` are of the first one then.
    ``vmcoreinfo_address``: where VMCOREINFO was found in memory, if there was no note of it, or a
    wrong one (``wrong_vmcoreinfo``).
    ``missing_memory``: what of the kernel's memory is in no piece of raw memory, a sentence or "".
    """

    path: Path
    format: str
    size_bytes: int
    loads: Loads
    kdump: KdumpHeader | None = None
    missing_bytes: int = 0
    cut: str = ""
    parts: tuple[DumpFile, ...] = ()
    vmcoreinfo_address: int | None = None
    wrong_vmcoreinfo: bool = False
    unpacked: avml.Unpacked | None = None
    missing_memory: str = ""

    @property
    def files(self) -> tuple[DumpFile, ...]:
        """The parts, or itself."""
        return self.parts or (self,)

    @property
    def name(self) -> str:
        """The file or files, for a sentence."""
        return ", ".join(str(file.path) for file in self.files)

    @property
    def memory_only(self) -> bool:
        """Whether nothing says what is in the memory but the memory itself."""
        return self.format in ("raw", "lime", "avml")

    def open(self) -> BinaryIO:
        """The file whose offsets are those of ``loads``, unbuffered."""
        return self.unpacked.open() if self.unpacked else self.path.open("rb", buffering=0)


def inspect(path: Path) -> DumpFile:
    """Look at the headers of ``path``. Raises TargetError if it is no kernel dump."""
    with open_regular(path) as (file, size):
        return _inspect(path, file, size)


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file ``path`` for the body, and its size in bytes. Raises TargetError if it can't be."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise TargetError(
                f"{path} is no regular file: a pipe, a socket or a device can't be read twice",
                hint="write it to a file first",
            )
        with own_limits(), path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise TargetError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise TargetError(f"{path} is a directory", hint="name the dump file in it") from error
    except PermissionError as error:
        raise TargetError(f"{path} may not be read by you", hint=AS_ROOT) from error
    except OSError as error:
        raise TargetError(f"{path} can't be read: {error.strerror}") from error


def format_of(head: bytes) -> str:
    """The format of a dump that begins with ``head``, as ``DumpFile`` has it; "" if it is none."""
    found = (name for name, magic in _MAGICS.items() if head.startswith(magic))
    return next(found, "")


def _inspect(path: Path, file: BinaryIO, size: int) -> DumpFile:
    head = file.read(64)
    name = format_of(head)
    if name == "elf":
        loads = _elf_loads(path, file, head, size)
        end = int((loads["offset"] + loads["filesz"]).max(initial=0))
        return DumpFile(path, "elf", size, loads, None, *_cut(path, size, end - size))
    no_loads = np.empty(0, PHDR)
    if name == "flattened":
        header = read_header(path, file, flattened=True)
        cut = "" if flattened_to_its_end(file, size) else f"{path} is cut off: it has no end mark"
        return DumpFile(path, "flattened", size, no_loads, header, 0, cut)
    if name == "kdump":
        header = read_header(path, file, flattened=False)
        missing = KdumpPages(path, header).missing_bytes
        return DumpFile(path, "kdump", size, no_loads, header, *_cut(path, size, missing))
    if name in ("lime", "avml"):
        loads, missing = (lime if name == "lime" else avml).walk(path, file, size)
        return DumpFile(path, name, size, loads, None, *_cut(path, size, missing))
    if not head:
        raise TargetError(f"{path} is empty")
    refuse_foreign(path, head)
    raise TargetError(
        f"{path} is no crash dump: it has no header that is known",
        hint=f"raw physical memory? then: --core {path}@0 (or the address where it begins); "
        "a vmcore is made by kdump, virsh dump --memory-only or QEMU's dump-guest-memory",
    )


def _cut(path: Path, size: int, missing: int) -> tuple[int, str]:
    if missing <= 0:
        return 0, ""
    return missing, f"{path} is cut off: it has {size:,} of at least {size + missing:,} bytes"


def _is_of_xen(file: BinaryIO, sections: int, size: int) -> bool:
    """Whether names of sections say so: they stand beside the headers of these, or at the end."""
    for start in (sections, size - _NAMES_BYTES):
        file.seek(min(max(start, 0), size))
        if b"\0.note.Xen\0" in file.read(_NAMES_BYTES):
            return True
    return False


def _elf_loads(path: Path, file: BinaryIO, head: bytes, size: int) -> Loads:
    if len(head) < EHDR.itemsize:
        raise TargetError(f"{path} is cut off in its first {len(head)} bytes")
    ehdr = np.frombuffer(head, EHDR, 1)[0]
    if _ET_CORE in (ehdr["type"], ehdr["type"].byteswap()):
        refuse_machine(path, elf_machine(head))
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
    if not count and _is_of_xen(file, int(ehdr["shoff"]), size):
        raise TargetError(
            f"{path} is a dump of a domain by Xen (xl dump-core), which is not read",
            hint="take one inside of the domain, with kdump",
        )
    if count > MOST_LOADS:
        raise TargetError(f"{path} is damaged: {count:,} program headers are beyond all dumps")
    start = int(ehdr["phoff"])
    if start + count * PHDR.itemsize > size:
        raise TargetError(f"{path} is cut off in its program headers")
    file.seek(start)
    raw = file.read(count * PHDR.itemsize)
    headers = np.frombuffer(raw, PHDR)
    loads: Loads = headers[headers["type"] == PT_LOAD]
    for begin, length in (("offset", "filesz"), ("paddr", "filesz"), ("paddr", "memsz")):
        if (loads[begin] > MOST_BYTES).any() or (loads[length] > MOST_BYTES).any():
            raise TargetError(f"{path} is damaged: a program header is beyond all memory")
    loads.sort(order="paddr")
    return loads

"""VMCOREINFO in memory, of a dump without a note of it: virtual machines', mostly; raw memory.

The kernel keeps it in a page of its own from boot on (kernel/vmcore_info.c, vmcoreinfo_data).
"""

from __future__ import annotations

import functools
import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from estimator.errors import TargetError
from estimator.kernel.dump.file import DumpFile

START = b"OSRELEASE="
_PAGE_BYTES = 4096
_PAGES_AT_ONCE = 1 << 18
_SEARCHED_BYTES = 1 << 16
KERNEL_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map of x86_64
_RELEASE = re.compile(rb"OSRELEASE=([\w.+~-]+)\n")
_PHYS_BASE = re.compile(rb"^NUMBER\(phys_base\)=(-?\d+)$", re.MULTILINE)
_UTS = re.compile(rb"^SYMBOL\(init_uts_ns\)=([0-9a-f]+)$", re.MULTILINE)
UTS_BYTES = 512
Read = Callable[[int, int], bytes]
"""Up to so many bytes at a physical address; fewer where there are no more."""


@dataclass(frozen=True)
class FoundVmcoreinfo:
    """``text``: without the zeroes behind it. ``address``: physical."""

    text: bytes
    address: int

    @property
    def release(self) -> bytes:
        """The ``uname -r`` that it says."""
        match = _RELEASE.match(self.text)
        return match[1] if match else b""

    @property
    def image_shift(self) -> int | None:
        """From a virtual address in the kernel image to the physical one."""
        base = _PHYS_BASE.search(self.text)
        return int(base[1]) - KERNEL_MAP if base else None

    @property
    def uts_address(self) -> int | None:
        """Where it says that ``init_uts_ns`` is, physical."""
        symbol = _UTS.search(self.text)
        if not symbol or self.image_shift is None:
            return None
        return int(symbol[1], 16) + self.image_shift

    def fits(self, read: Read) -> bool:
        """Whether it leads to a ``init_uts_ns`` of its release."""
        if not self.release or self.uts_address is None:
            return False
        return is_of(read(self.uts_address, UTS_BYTES), self.release)


def is_of(uts: bytes, release: bytes) -> bool:
    """Whether the bytes at ``init_uts_ns`` say ``release``."""
    return release + b"\0" in uts


def vmcoreinfo_in(page: bytes, address: int) -> FoundVmcoreinfo:
    """What would be VMCOREINFO in the page at ``address``."""
    return FoundVmcoreinfo(page.partition(b"\0")[0], address)


@dataclass(frozen=True)
class MappedPiece:
    """The memory from the physical ``address`` on: ``data`` from ``start`` until before ``end``."""

    path: Path
    data: mmap.mmap
    start: int
    end: int
    address: int

    def pages_with(self, what: bytes) -> Iterator[int]:
        """The pages of memory that begin with ``what``, as places in ``data``; faster than find."""
        first = self.start + -self.address % _PAGE_BYTES
        end = min(self.end, len(self.data))
        count = (end - first) // _PAGE_BYTES
        for number in range(0, max(count, 0), _PAGES_AT_ONCE):
            pages = min(count - number, _PAGES_AT_ONCE)
            at = first + number * _PAGE_BYTES
            begins = np.ndarray(pages, f"S{len(what)}", self.data, at, _PAGE_BYTES) == what
            yield from (at + np.flatnonzero(begins) * _PAGE_BYTES).tolist()

    def find(self, what: bytes) -> Iterator[int]:
        """Where ``what`` is in it, as places in ``data``."""
        for start in range(self.start, min(self.end, len(self.data)), _SEARCHED_BYTES):
            part = self.data[start : min(start + _SEARCHED_BYTES + len(what) - 1, self.end)]
            at = part.find(what)
            while at >= 0:
                yield start + at
                at = part.find(what, at + 1)

    def vmcoreinfo_at(self, at: int) -> FoundVmcoreinfo:
        """What would be VMCOREINFO at a place in ``data``."""
        page = self.data[at : min(at + _PAGE_BYTES, self.end)]
        return vmcoreinfo_in(page, self.address + at - self.start)


def find_vmcoreinfo(dump: DumpFile) -> FoundVmcoreinfo | None:
    """The page of the kernel that the dump is of; None if there is none.

    A host's memory has those of its guests too: the right one leads to a ``init_uts_ns`` of its
    release. Raises TargetError if several do that differ.
    """
    fitting: dict[bytes, FoundVmcoreinfo] = {}
    with mapped(dump) as pieces:
        for piece in pieces:
            for at in piece.pages_with(START):
                found = piece.vmcoreinfo_at(at)
                if found.fits(functools.partial(_physical, pieces)):
                    fitting.setdefault(found.text, found)
    if len(fitting) > 1:
        raise TargetError(f"{dump.name} has no VMCOREINFO note, and {len(fitting)} kernels in it")
    return next(iter(fitting.values()), None)


@contextmanager
def mapped(dump: DumpFile) -> Iterator[list[MappedPiece]]:
    """All that the dump has of physical memory, mapped for the body; not of a kdump file."""
    with ExitStack() as opened:
        pieces = []
        for file in dump.files:
            with file.open() as source:
                if not os.fstat(source.fileno()).st_size:
                    continue
                data = opened.enter_context(mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ))
            for start, address, size in file.loads[["offset", "paddr", "filesz"]].tolist():
                pieces.append(MappedPiece(file.path, data, start, start + size, address))
        yield pieces


def _physical(pieces: Sequence[MappedPiece], address: int, size: int) -> bytes:
    for piece in pieces:
        at = piece.start + address - piece.address
        if piece.start <= at < piece.end:
            return piece.data[at : min(at + size, piece.end)]
    return b""

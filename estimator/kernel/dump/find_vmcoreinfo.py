"""VMCOREINFO in the memory of an ELF dump that has no note of it: virtual machines', mostly.

The kernel keeps it in a page of its own from boot on (kernel/vmcore_info.c, vmcoreinfo_data).
"""

from __future__ import annotations

import functools
import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from estimator.errors import TargetError
from estimator.kernel.dump.file import DumpFile

_START = b"OSRELEASE="
_PAGE_BYTES = 4096
_KERNEL_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map of x86_64
_RELEASE = re.compile(rb"\AOSRELEASE=([\w.+~-]+)\n")
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

    def fits(self, read: Read) -> bool:
        """Whether it leads to a ``init_uts_ns`` of its release."""
        release, base, symbol = (
            pattern.search(self.text) for pattern in (_RELEASE, _PHYS_BASE, _UTS)
        )
        if not release or not base or not symbol:
            return False
        address = int(symbol[1], 16) - _KERNEL_MAP + int(base[1])
        return is_of(read(address, UTS_BYTES), release[1])


def is_of(uts: bytes, release: bytes) -> bool:
    """Whether the bytes at ``init_uts_ns`` say ``release``."""
    return release + b"\0" in uts


def starts_vmcoreinfo(page: bytes, address: int) -> FoundVmcoreinfo | None:
    """What the page at ``address`` holds, if it begins as VMCOREINFO does."""
    if not page.startswith(_START):
        return None
    return FoundVmcoreinfo(page.partition(b"\0")[0], address)


def find_vmcoreinfo(dump: DumpFile) -> FoundVmcoreinfo | None:
    """The page of the kernel that the dump is of; None if there is none.

    A host's memory has those of its guests too: the right one leads to a ``init_uts_ns`` of its
    release. Raises TargetError if several do that differ.
    """
    fitting: dict[bytes, FoundVmcoreinfo] = {}
    with dump.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        for found in _candidates(dump, data):
            if found.fits(functools.partial(_physical, dump, data)):
                fitting.setdefault(found.text, found)
    if len(fitting) > 1:
        raise TargetError(f"{dump.name} has no VMCOREINFO note, and {len(fitting)} kernels in it")
    return next(iter(fitting.values()), None)


def _candidates(dump: DumpFile, data: mmap.mmap) -> Iterator[FoundVmcoreinfo]:
    for load in dump.loads:
        start, address = int(load["offset"]), int(load["paddr"])
        end = start + int(load["filesz"])
        at = data.find(_START, start, end)
        while at >= 0:
            place = address + at - start
            if place % _PAGE_BYTES == 0:
                found = starts_vmcoreinfo(data[at : min(at + _PAGE_BYTES, end)], place)
                if found is not None:
                    yield found
            at = data.find(_START, at + 1, end)


def _physical(dump: DumpFile, data: mmap.mmap, address: int, size: int) -> bytes:
    for load in dump.loads:
        inside = address - int(load["paddr"])
        if 0 <= inside < int(load["filesz"]):
            at = int(load["offset"]) + inside
            return data[at : at + min(size, int(load["filesz"]) - inside)]
    return b""

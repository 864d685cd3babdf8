"""Dumps whose VMCOREINFO note is missing, or is of another kernel than their memory."""

from __future__ import annotations

from drgn import Platform, Program

from estimator.kernel.dump.file import DumpFile
from estimator.kernel.dump.find_vmcoreinfo import (
    START,
    UTS_BYTES,
    FoundVmcoreinfo,
    find_vmcoreinfo,
    is_of,
    vmcoreinfo_in,
)
from estimator.kernel.dump.kdump_headers import KdumpPages
from estimator.kernel.memory import READ_ERRORS
from estimator.kernel.vmcoreinfo import kernel_release, symbols

_PLACEHOLDER = b"""OSRELEASE=6.0.0
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff82000000
SYMBOL(_stext)=ffffffff81000000
KERNELOFFSET=0
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
"""
"""What libkdumpfile must be told before it reads physical memory, which depends on none of it."""
_FRAMES_OF_A_BYTE = 4  # at most, by the two bitmaps
_SMALLEST, _LARGEST = 512, 3584  # bytes that the page is compressed to, by any of the methods


def note_fits(prog: Program) -> bool:
    """Whether VMCOREINFO leads to a ``init_uts_ns`` of its release; True if it names none.

    Hyper-V is known to give one that does not (KERNELOFFSET, phys_base), and dumps of virtual
    machines may have that of the kernel which was booted before.
    """
    address = symbols(prog).get("init_uts_ns")
    if address is None:
        return True
    try:
        found = prog.read(address, UTS_BYTES)
    except READ_ERRORS:
        return False
    return is_of(found, kernel_release(prog).encode())


def find_note(dump: DumpFile, platform: Platform | None) -> FoundVmcoreinfo | None:
    """VMCOREINFO in the memory of ``dump``, of the kernel that it is a dump of; None if none is.

    Raises TargetError if several are.
    """
    if dump.format == "elf":
        return find_vmcoreinfo(dump)
    if dump.kdump is None or dump.parts:
        return None
    prog = Program(platform, vmcoreinfo=_PLACEHOLDER)
    prog.set_core_dump(dump.path)
    page_bytes = dump.kdump.block_bytes

    def read(address: int, size: int) -> bytes:
        try:
            return prog.read(address, size, True)
        except READ_ERRORS:
            return b""

    if dump.format == "kdump":
        pfns = KdumpPages(dump.path, dump.kdump).pfns_of_size(_SMALLEST, _LARGEST)
    else:
        pfns = iter(range(min(dump.kdump.max_mapnr, _FRAMES_OF_A_BYTE * dump.size_bytes)))
    for pfn in pfns:
        page = read(pfn * page_bytes, page_bytes)
        if page.startswith(START):
            found = vmcoreinfo_in(page, pfn * page_bytes)
            if found.fits(read):
                return found
    return None

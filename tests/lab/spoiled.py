"""Copies of dumps that lack what a kernel says of itself, or say it wrongly."""

from __future__ import annotations

import contextlib
import mmap
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

_NOTES = slice(4096 + 32, 4096 + 64)  # offset_vmcoreinfo to size_note in kdump_sub_header


def without_own_symbols(core: Path, copy: Path) -> Path:
    """``copy`` of the ELF dump ``core`` whose kernel describes itself no more."""
    with _copied(core, copy) as data:
        for name in (b"_stext", b"kallsyms_names"):
            at = data.find(b"SYMBOL(%s)" % name)
            if at >= 0:
                data[at : at + 6] = b"LYMBOS"
    return copy


def without_note(core: Path, copy: Path) -> Path:
    """``copy`` of the ELF or kdump file ``core`` whose VMCOREINFO note is missing."""
    with _copied(core, copy) as data:
        if data[:5] == b"KDUMP":
            data[_NOTES] = bytes(32)
        else:
            at = data.find(b"VMCOREINFO\0")
            data[at : at + 1] = b"X"
    return copy


def with_wrong_note(core: Path, copy: Path) -> Path:
    """``copy`` of ``core`` whose note says that the kernel lies elsewhere: of another boot."""
    with _copied(core, copy) as data:
        at = data.find(b"OSRELEASE=")
        end = data.find(b"\0", at)
        for found in re.finditer(rb"SYMBOL\(\w+\)=ffffffff(..)", data[at:end]):
            other = int(found[1], 16) ^ 0x10
            data[at + found.start(1) : at + found.end(1)] = b"%02x" % other
    return copy


def cut_note(core: Path, copy: Path) -> Path:
    """``copy`` of the ELF dump ``core`` whose note, as text, ends within the release."""
    with _copied(core, copy) as data:
        at = data.find(b"OSRELEASE=") + 16
        data[at : at + 8] = bytes(8)
    return copy


@contextlib.contextmanager
def _copied(core: Path, copy: Path) -> Iterator[mmap.mmap]:
    shutil.copyfile(core, copy)
    with copy.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        yield data

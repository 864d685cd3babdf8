"""VMCOREINFO: what a kernel says of itself to those who read its memory; needs no symbols."""

from __future__ import annotations

import re

from drgn import Program

from estimator.errors import TargetError

_BUILD_ID = re.compile(rb"^BUILD-ID=([0-9a-f]+)$", re.MULTILINE)
_SYMBOL = re.compile(rb"^SYMBOL\((\w+)\)=([0-9a-f]+)$", re.MULTILINE)
_LENGTH = re.compile(rb"^LENGTH\((\w+)\)=(\d+)$", re.MULTILINE)
_PAGE_SIZE = re.compile(rb"^PAGESIZE=(\d+)$", re.MULTILINE)


def kernel_release(prog: Program) -> str:
    """The ``uname -r`` of the kernel."""
    return prog["UTS_RELEASE"].string_().decode(errors="replace")


def kernel_build_id(prog: Program) -> str | None:
    """Of the kernel's vmlinux (5.9+)."""
    found = _BUILD_ID.search(prog["VMCOREINFO"].string_())
    return found[1].decode() if found else None


def symbols(prog: Program) -> dict[str, int]:
    """The addresses that it tells, by name."""
    found = _SYMBOL.findall(prog["VMCOREINFO"].string_())
    return {name.decode(): int(address, 16) for name, address in found}


def lengths(prog: Program) -> dict[str, int]:
    """The lengths of arrays that it tells, by name."""
    found = _LENGTH.findall(prog["VMCOREINFO"].string_())
    return {name.decode(): int(length) for name, length in found}


def number(prog: Program, name: str) -> int:
    """A number that it tells, decimal or hexadecimal. Raises LookupError if it does not."""
    pattern = rb"^NUMBER\(" + name.encode() + rb"\)=(-?(?:0x)?[0-9a-f]+)$"
    found = re.search(pattern, prog["VMCOREINFO"].string_(), re.MULTILINE)
    if found is None:
        raise LookupError(f"VMCOREINFO has no NUMBER({name})")
    return int(found[1], 0)


def tells_page_size(prog: Program) -> bool:
    """Whether it does, as that of every kernel, if it is whole."""
    return _PAGE_SIZE.search(prog["VMCOREINFO"].string_()) is not None


def page_shift(prog: Program) -> int:
    """Of the kernel: 12 for pages of 4 KiB. Raises TargetError unless ``tells_page_size``."""
    found = _PAGE_SIZE.search(prog["VMCOREINFO"].string_())
    if found is None:
        raise TargetError("VMCOREINFO is damaged: it does not say the size of a page")
    return int(found[1]).bit_length() - 1

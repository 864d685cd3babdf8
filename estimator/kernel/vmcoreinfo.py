"""VMCOREINFO: what a kernel says of itself to those who read its memory; needs no symbols."""

from __future__ import annotations

import re

from drgn import Program

_BUILD_ID = re.compile(rb"^BUILD-ID=([0-9a-f]+)$", re.MULTILINE)
_SYMBOL = re.compile(rb"^SYMBOL\((\w+)\)=([0-9a-f]+)$", re.MULTILINE)
_LENGTH = re.compile(rb"^LENGTH\((\w+)\)=(\d+)$", re.MULTILINE)


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

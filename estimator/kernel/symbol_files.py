"""What was named as symbols and can't be a vmlinux: by looking at the file."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from estimator.errors import NoDebugInfoError
from estimator.kernel.dump.file import EHDR
from estimator.kernel.dump.foreign import PACKERS

_BOOT_IMAGE = b"HdrS"  # Documentation/arch/x86/boot.rst: at 0x202
_ARM64_IMAGE = b"ARM\x64"  # Documentation/arch/arm64/booting.rst: at 56
_ELFCLASS64 = 2


def refuse_no_vmlinux(path: Path) -> None:
    """Raise NoDebugInfoError if ``path`` can't be a vmlinux: what it is, and what to do."""
    if path.is_dir():
        inside = path / "vmlinux"
        raise NoDebugInfoError(
            f"{path} is a directory, not a vmlinux",
            hint=f"try: --symbols {shlex.quote(str(inside))}" if inside.exists() else "",
        )
    if not path.exists():
        raise NoDebugInfoError(f"{path}, named by --symbols, does not exist")
    if not path.is_file():
        raise NoDebugInfoError(f"{path} is no regular file, so no vmlinux")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except PermissionError as error:
        raise NoDebugInfoError(f"{path} can't be read: {error.strerror}") from error
    for magic, _, command in PACKERS:
        if head.startswith(magic):
            raise NoDebugInfoError(
                f"{path} is compressed", hint=f"try: {command} {shlex.quote(str(path))}"
            )
    if head[0x202:0x206] == _BOOT_IMAGE or head[56:60] == _ARM64_IMAGE:
        raise NoDebugInfoError(
            f"{path} is the image that boots (vmlinuz): it has no debug information",
            hint="name the vmlinux of the debug package, or leave --symbols out",
        )
    if not head.startswith(b"\x7fELF"):
        raise NoDebugInfoError(f"{path} is no ELF file, so no vmlinux")
    size = path.stat().st_size
    if len(head) >= EHDR.itemsize and head[4] == _ELFCLASS64:
        ehdr = np.frombuffer(head, EHDR, 1)[0]
        end = int(ehdr["shoff"]) + int(ehdr["shentsize"]) * int(ehdr["shnum"])
        if size < end:
            raise NoDebugInfoError(f"{path} is cut off: it has {size:,} of {end:,} bytes")

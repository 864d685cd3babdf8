"""What was named as symbols and can't be a vmlinux: by looking at the file."""

from __future__ import annotations

import shlex
import struct
from pathlib import Path

from estimator.errors import NoDebugInfoError

_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_BOOT_IMAGE = b"HdrS"  # Documentation/arch/x86/boot.rst: at 0x202
_ARM64_IMAGE = b"ARM\x64"  # Documentation/arch/arm64/booting.rst: at 56
_ELFCLASS64 = 2
_SECTIONS = struct.Struct("<40xQ10xHH")  # e_shoff, e_shentsize, e_shnum of an Elf64_Ehdr


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
    for magic, command in _PACKED.items():
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
    if len(head) >= _SECTIONS.size and head[4] == _ELFCLASS64:
        start, each, number = _SECTIONS.unpack_from(head)
        if size < (end := start + each * number):
            raise NoDebugInfoError(f"{path} is cut off: it has {size:,} of {end:,} bytes")

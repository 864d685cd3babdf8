"""What --symbols names and is no vmlinux: said by looking at it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from estimator.errors import NoDebugInfoError
from estimator.kernel.symbol_files import refuse_no_vmlinux


def elf(sections_at: int, size: int) -> bytes:
    head = b"\x7fELF\x02\x01\x01".ljust(40, b"\0") + struct.pack("<Q10xHH", sections_at, 64, 2)
    return head.ljust(size, b"\0")


FILES = {
    "packed": (gzip.compress(b"\x7fELF"), "is compressed"),
    "image": (b"MZ".ljust(0x202, b"\0") + b"HdrS" + bytes(600), "is the image that boots"),
    "arm64": (b"MZ".ljust(56, b"\0") + b"ARM\x64" + bytes(600), "is the image that boots"),
    "text": (b"root:x:0:0\n", "is no ELF file"),
    "empty": (b"", "is no ELF file"),
    "cut": (elf(1000, 1127), "is cut off: it has 1,127 of 1,128 bytes"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_it_is_is_said(name: str, tmp_path: Path) -> None:
    content, what = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NoDebugInfoError, match=what):
        refuse_no_vmlinux(tmp_path / name)


def test_a_whole_elf_file_is_left_to_drgn(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(elf(1000, 1128))
    refuse_no_vmlinux(tmp_path / "vmlinux")


def test_directories_and_what_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NoDebugInfoError, match="does not exist"):
        refuse_no_vmlinux(tmp_path / "vmlinux")
    with pytest.raises(NoDebugInfoError, match="is a directory"):
        refuse_no_vmlinux(tmp_path)
    (tmp_path / "vmlinux").write_bytes(b"")
    with pytest.raises(NoDebugInfoError) as refused:
        refuse_no_vmlinux(tmp_path)
    assert refused.value.hint == f"try: --symbols {tmp_path}/vmlinux"
    with pytest.raises(NoDebugInfoError, match="no regular file"):
        refuse_no_vmlinux(Path("/dev/null"))

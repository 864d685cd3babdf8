"""Options that would do nothing are refused; what may not be opened is no wrong use."""

from __future__ import annotations

import importlib
import os
import struct
from pathlib import Path

import pytest

from estimator.cli import cli
from estimator.errors import TargetError
from estimator.kernel.core import open_core
from estimator.snapshot.store import open_snapshot
from tests.commands import estimator
from tests.test_dumpfile import kdump

NOBODY = 65534


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--core vmcore --rate 5", "--rate is for a running system"),
        ("--procfs --interval 5", "--interval goes with --passes 2 or more"),
        ("--procfs --symbols btf", "--procfs needs no symbols"),
        ("--live --architecture x86_64", "--architecture is for a dump"),
        ("--core vmcore --passes 2", "a dump does not change"),
    ],
)
def test_refused(options: str, message: str) -> None:
    done = estimator("run", *options.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("machine", "asked"), [(b"\x3e\0", "aarch64"), (b"\xb7\0", "x86_64")], ids=["x86_64", "aarch64"]
)
def test_another_architecture_than_the_file_says(
    machine: bytes, asked: str, tmp_path: Path
) -> None:
    core = tmp_path / "vmcore"
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x04\0" + machine
    load = struct.pack("<IIQQQQQQ", 1, 4, 4096, 0, 0, 4096, 4096, 4096)
    rest = struct.pack("<IQQQIHHHHHH", 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    core.write_bytes((header + rest + load).ljust(8192, b"\0"))
    done = estimator("run", "--core", core, "--architecture", asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert f", not of {asked}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")
def test_what_may_not_be_read_can_not_be_opened(tmp_path: Path) -> None:
    core = tmp_path / "vmcore"
    core.write_bytes(b"\x7fELF")
    core.chmod(0)
    (tmp_path / "web1.ksm").mkdir(0o700)
    (tmp_path / "open.ksm").mkdir(0o755)
    (tmp_path / "open.ksm/snapshot.json").write_text("{}")
    (tmp_path / "open.ksm/snapshot.json").chmod(0o600)
    tmp_path.chmod(0o711)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    importlib.import_module("estimator.snapshot.read_tables")  # whoever may read it
    os.seteuid(NOBODY)
    try:
        for command, *path in (("run", "--core", str(core)), ("predict", str(core))):
            cli.commands[command].make_context(command, list(path))  # not refused as wrong use
        with pytest.raises(TargetError):
            open_core(core)
        for snapshot in (core, tmp_path / "web1.ksm", tmp_path / "open.ksm"):
            with pytest.raises(TargetError, match=r"can't be read: .*; ask as its owner, .*root"):
                open_snapshot(snapshot)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("block", "likely"), [(4096, "x86_64"), (65536, "aarch64")])
def test_a_kdump_file_that_does_not_say_its_architecture(
    block: int, likely: str, tmp_path: Path
) -> None:
    """QEMU writes blocks of 64 KiB of arm64, without its name."""
    core = tmp_path / "vmcore"
    core.write_bytes(kdump(machine=b"Unknown", block=block))
    done = estimator("run", "--core", core)
    assert (done.returncode, done.stdout) == (3, "")
    said = f"{core} does not say of what architecture it is; try: --architecture {likely}\n"
    assert done.stderr == f"ksm-estimator: {said}"


def test_blocks_of_a_kdump_file_that_are_not_the_pages_of_its_kernel(tmp_path: Path) -> None:
    text = b"OSRELEASE=6.12.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffff800082000000\n"
    text += b"NUMBER(VA_BITS)=52\nNUMBER(TCR_EL1_T1SZ)=0xc\nKERNELOFFSET=0\n"
    note = struct.pack("<III12s", 11, len(text), 0, b"VMCOREINFO") + text + bytes(-len(text) % 4)
    core = tmp_path / "vmcore"
    core.write_bytes(kdump(machine=b"Unknown", block=65536, notes=note))
    done = estimator("run", "--core", core, "--architecture", "aarch64")
    assert (done.returncode, done.stdout) == (3, "")
    assert "consists of blocks of 65,536 bytes, but pages of its kernel have 4,096" in done.stderr
    assert "what can be read is an ELF dump" in done.stderr

"""VMCOREINFO that does not lead to its own kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from drgn import Architecture, FaultError, Platform, Program

from estimator.errors import TargetError
from estimator.kernel.core import open_core
from estimator.kernel.missing_note import note_fits
from tests.test_terminal import core_of

UTS = 0xFFFFFFFF82612340
NOTE = f"""OSRELEASE=6.12.1
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff82000000
SYMBOL(init_uts_ns)={UTS:x}
KERNELOFFSET=0
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
"""


def kernel(memory: bytes, note: str = NOTE) -> Program:
    prog = Program(Platform(Architecture.X86_64))
    prog.set_linux_kernel_custom(note.encode(), False)

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if not memory:
            raise FaultError("not in the dump", address)
        return memory[offset : offset + count]

    prog.add_memory_segment(UTS, 4096, read)
    return prog


@pytest.mark.parametrize(
    ("memory", "fits"),
    [
        (b"\1\0\0\0Linux\0host\0" + b"6.12.1\0", True),
        (b"\1\0\0\0Linux\0host\0" + b"6.12.10\0", False),
        (b"\0", False),
        (b"", False),
    ],
)
def test_it_leads_to_its_release(memory: bytes, fits: bool) -> None:
    assert note_fits(kernel(memory.ljust(4096, b"\0") if memory else b"")) == fits


def test_a_dump_whose_note_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(core_of("6.12.1", f"SYMBOL(init_uts_ns)={UTS:x}\n"))
    with pytest.raises(TargetError, match=r"does not fit its memory: .* no kernel 6\.12\.1"):
        open_core(tmp_path / "core")


def test_without_the_symbol_nothing_is_said() -> None:
    without = "\n".join(line for line in NOTE.split("\n") if "init_uts_ns" not in line)
    assert note_fits(kernel(b"", without))

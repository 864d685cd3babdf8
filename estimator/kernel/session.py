"""The target of a drgn session that has one already."""

from __future__ import annotations

from pathlib import Path

from drgn import Program, ProgramFlags

from estimator.errors import TargetError
from estimator.kernel.core import with_memory
from estimator.kernel.dump.split import inspect_dump, refuse_missing_parts
from estimator.kernel.symbols import knows_symbols, load_symbols
from estimator.kernel.target import Target


def from_program(prog: Program) -> Target:
    """The target of a drgn Program that has one: inside drgn itself.

    Symbols are loaded if it has none. Raises the errors of ``open_core``.
    """
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(
            "this drgn session does not look at a Linux kernel", hint="drgn -c VMCORE"
        )
    if not knows_symbols(prog):
        load_symbols(prog, ())
    path = prog.core_dump_path
    if path is None or prog.flags & ProgramFlags.IS_LIVE:
        from estimator.kernel.kcore import KCORE
        from estimator.kernel.memory.running import RunningMemory

        memory = RunningMemory(prog)
        if prog.flags & ProgramFlags.IS_LOCAL:
            return Target(prog, memory, "live", str(KCORE), "kcore")
        return Target(prog, memory, "qemu", "the guest of this drgn session", "qmp")
    dump = inspect_dump([Path(path)])
    refuse_missing_parts(dump)
    return with_memory(prog, dump)

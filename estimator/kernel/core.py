"""A crash dump as a drgn Program with symbols; what goes wrong is said in the user's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from drgn import Architecture, BadDataError, Platform, Program, ProgramFlags

from estimator.collect.limits import is_own_limit, own_limits
from estimator.errors import NoDebugInfoError, ResourceError, TargetError, UsageError
from estimator.kernel.dump.avml import unpack
from estimator.kernel.dump.file import EHDR, DumpFile
from estimator.kernel.dump.find_vmcoreinfo import find_vmcoreinfo
from estimator.kernel.dump.kdump_headers import KdumpPages
from estimator.kernel.dump.machine import elf_machine
from estimator.kernel.dump.memory_only import open_memory, why_no_kernel
from estimator.kernel.dump.split import inspect_dump, open_parts, refuse_missing_parts
from estimator.kernel.failures import reading
from estimator.kernel.memory import Memory
from estimator.kernel.memory.elf import MappedElf
from estimator.kernel.memory.files import MappedFiles
from estimator.kernel.memory.kdump import Kdump
from estimator.kernel.memory_map import memory_map, missing_memory
from estimator.kernel.missing_note import find_note, note_fits
from estimator.kernel.symbols import load_symbols
from estimator.kernel.target import Target
from estimator.kernel.vmcoreinfo import kernel_release, page_shift, tells_page_size

_LACKS_NOTE = "linux.vmcoreinfo.raw is not set"  # libkdumpfile
_X86_PAGE_BYTES = 4096
ARCHITECTURES = {"x86_64": Architecture.X86_64, "aarch64": Architecture.AARCH64}


def open_core(
    core: Path | Sequence[Path], symbols: Sequence[Path] = (), architecture: str | None = None
) -> Target:
    """Open the crash dump ``core`` with the vmlinux among ``symbols``, or the one drgn finds.

    ``core``: its file, all files of a split dump, or pieces of raw memory (FILE@ADDRESS).
    ``architecture`` as in ``uname -m``, for a dump that does not say it. Raises TargetError (no
    kernel dump), NoDebugInfoError (no vmlinux, or one of another build), CannotAnswerError (part of
    a split dump missing), UsageError (files that are not of one dump, pieces at wrong addresses).
    """
    dump = inspect_dump([core] if isinstance(core, Path) else core)
    refuse_missing_parts(dump)
    prog, dump = open_program(dump, architecture)
    load_symbols_of(dump, prog, symbols)
    return with_memory(prog, dump)


def open_program(dump: DumpFile, architecture: str | None = None) -> tuple[Program, DumpFile]:
    """The dump as a drgn Program without symbols; and with what was found in it meanwhile.

    Raises TargetError, UsageError for raw memory at a wrong address, ResourceError where there is
    no room to unpack it.
    """
    if dump.memory_only:
        return _open_memory(dump, architecture)
    platform = _platform(dump, architecture)
    try:
        with own_limits():
            parts = dump.parts
            prog = open_parts(parts, platform) if parts else _opened(dump, platform, None)
    except ResourceError:
        raise
    except Exception as error:  # drgn has no narrower class for what libkdumpfile says
        if dump.cut or not (dump.format == "elf" or _LACKS_NOTE in str(error)):
            raise _why_not_opened(dump, platform, error) from error
        if (unsaid := _no_architecture(dump, platform)) is not None:
            raise unsaid from error
        prog = None  # so for QEMU's dumps without a VMCOREINFO note
    has_note = prog is not None and bool(prog.flags & ProgramFlags.IS_LINUX_KERNEL)
    if prog is not None and has_note and tells_page_size(prog):
        _refuse_other_blocks(prog, dump)
        cut = any(file.cut for file in dump.files)
        if cut or note_fits(prog):
            return prog, dump
    with own_limits():
        found = find_note(dump, platform)
    if found is None:
        raise _without_kernel(dump, prog if has_note else None)
    try:
        prog = _opened(dump, platform, found.text)
    except BadDataError as error:
        raise TargetError(
            f"{dump.name} is damaged: VMCOREINFO, found at physical {found.address:#x}, can't be "
            f"used: {one_line(error)}"
        ) from error
    return prog, dataclasses.replace(
        dump, vmcoreinfo_address=found.address, wrong_vmcoreinfo=has_note
    )


def _refuse_other_blocks(prog: Program, dump: DumpFile) -> None:
    """QEMU writes blocks of 64 KiB of all guests of arm64; libkdumpfile takes them for pages."""
    page_bytes = 1 << page_shift(prog)
    if dump.kdump is not None and dump.kdump.block_bytes != page_bytes:
        raise TargetError(
            f"{dump.name} can't be read: it consists of blocks of {dump.kdump.block_bytes:,} bytes,"
            f" but pages of its kernel have {page_bytes:,}",
            hint="QEMU writes such files of arm64; what can be read is an ELF dump "
            "(dump-guest-memory without a format)",
        )


def _without_kernel(dump: DumpFile, prog: Program | None) -> TargetError:
    """``prog``: where there is a VMCOREINFO note, which does not fit."""
    if prog is not None:
        return TargetError(
            f"the VMCOREINFO note of {dump.name} does not fit its memory: where it leads to is no "
            f"kernel {kernel_release(prog)}, and no other VMCOREINFO was found",
            hint="the dump is damaged, or the note is of another kernel: take it again",
        )
    return TargetError(
        f"{dump.name} is a core dump without a Linux kernel in it (no VMCOREINFO, neither as a "
        "note nor in memory)",
        hint="is it the core of a user process? From QEMU, add -device vmcoreinfo",
    )


def _open_memory(dump: DumpFile, architecture: str | None) -> tuple[Program, DumpFile]:
    """Of x86_64, if the user does not name another architecture."""
    with own_limits():
        if dump.format == "avml":
            dump = dataclasses.replace(dump, unpacked=unpack(dump.path))
        found = find_vmcoreinfo(dump)
        if found is None:
            raise why_no_kernel(dump)
        platform = Platform(ARCHITECTURES[architecture or "x86_64"])
        try:
            prog = open_memory(dump, platform, found.text)
        except Exception as error:  # what drgn says of a VMCOREINFO that makes no sense
            if is_own_limit(error):
                raise
            raise _why_not_opened(dump, platform, error) from error
        if dump.format == "raw":
            missing = missing_memory(dump, memory_map(prog, found))
            dump = dataclasses.replace(dump, missing_memory=missing)
    return prog, dump


def _opened(dump: DumpFile, platform: Platform | None, vmcoreinfo: bytes | None) -> Program:
    prog = Program(platform, vmcoreinfo=vmcoreinfo)
    prog.set_core_dump(dump.path)
    return prog


def load_symbols_of(dump: DumpFile, prog: Program, symbols: Sequence[Path]) -> None:
    """Give ``prog``, which reads ``dump``, types and symbols; see ``load_symbols``.

    Raises TargetError where the kernel's own are in memory that was not named.
    """
    try:
        load_symbols(prog, symbols)
    except NoDebugInfoError as error:
        if dump.cut:
            raise TargetError(
                f"{dump.cut}: the kernel's own types and symbols can't be read",
                hint="take the dump again; with --symbols VMLINUX, what is there can be read",
            ) from error
        if symbols or not dump.missing_memory:
            raise
        raise TargetError(
            f"{dump.missing_memory}; without them this kernel's symbols can't be read",
            hint="name them too: --core FILE@ADDRESS, or its vmlinux: --symbols VMLINUX",
        ) from error


def with_memory(prog: Program, dump: DumpFile) -> Target:
    """The target of a Program with symbols.

    Raises TargetError if it can't be read, CannotAnswerError if this kernel is not supported,
    ResourceError.
    """
    with reading(prog, dump.cut or f"{dump.name} is damaged"):
        memory = _memory(prog, dump)
    return Target(prog, memory, "core", dump.name, dump.format, dump_warnings(dump))


def _platform(dump: DumpFile, architecture: str | None) -> Platform | None:
    """What drgn must be told about the dump; None if nothing is known.

    QEMU writes the architecture into its kdump files where libkdumpfile does not look for it.
    """
    said = dump.kdump.machine if dump.kdump else _elf_machine(dump)
    if architecture and said in ARCHITECTURES and said != architecture:
        raise UsageError(f"{dump.name} is of {said}, not of {architecture}")
    machine = architecture or (dump.kdump.machine if dump.kdump else "")
    return Platform(ARCHITECTURES[machine]) if machine in ARCHITECTURES else None


def _elf_machine(dump: DumpFile) -> str:
    """What an ELF file says it is of, as in ``uname -m``; "" for no ELF file."""
    if dump.format != "elf":
        return ""
    with dump.path.open("rb") as file:
        return elf_machine(file.read(EHDR.itemsize))


def _why_not_opened(dump: DumpFile, platform: Platform | None, error: Exception) -> TargetError:
    if dump.cut:
        return TargetError(dump.cut)
    return _no_architecture(dump, platform) or TargetError(
        f"{dump.name} can't be opened: {one_line(error)}"
    )


def _no_architecture(dump: DumpFile, platform: Platform | None) -> TargetError | None:
    """What to say if neither a kdump file nor the user names it, which libkdumpfile needs."""
    if platform is not None or dump.kdump is None or dump.kdump.machine:
        return None
    likely = "x86_64" if dump.kdump.block_bytes == _X86_PAGE_BYTES else "aarch64"
    return TargetError(
        f"{dump.name} does not say of what architecture it is",
        hint=f"try: --architecture {likely}",
    )


def one_line(error: Exception) -> str:
    """What an exception of drgn says, as part of a sentence."""
    return " ".join(str(error).split())


def _memory(prog: Program, dump: DumpFile) -> Memory:
    if len(dump.files) > 1 and dump.memory_only:
        return MappedFiles(prog, dump.files)
    if dump.format == "elf" or dump.memory_only:
        return MappedElf(prog, dump)
    if dump.format == "kdump":
        files = dump.parts or (dump,)
        return Kdump(prog, [KdumpPages(file.path, file.kdump) for file in files if file.kdump])
    return Memory(prog)


def dump_warnings(dump: DumpFile) -> tuple[str, ...]:
    """What is wrong with the file or files, in sentences."""
    warnings = []
    for file in dump.parts or (dump,):
        if file.cut:
            warnings.append(file.cut)
        if file.kdump is not None and file.kdump.incomplete:
            warnings.append(f"{file.path} says that makedumpfile could not write all of it")
    if dump.vmcoreinfo_address is not None:
        note = "does not fit the memory" if dump.wrong_vmcoreinfo else "was missing"
        warnings.append(
            f"the VMCOREINFO note {note}; found in memory, at physical {dump.vmcoreinfo_address:#x}"
        )
    if dump.missing_memory:
        warnings.append(dump.missing_memory)
    return tuple(warnings)

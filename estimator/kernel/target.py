"""A crash dump as a drgn Program with symbols; what goes wrong is said in the user's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drgn import (
    Architecture,
    FaultError,
    MissingDebugInfoError,
    ModuleFileStatus,
    Program,
    ProgramFlags,
)

from estimator.errors import CannotAnswerError, NoDebugInfoError, TargetError
from estimator.kernel.dumpfile import DumpFile, inspect
from estimator.kernel.memory import MappedElf, Memory


@dataclass(frozen=True)
class Target:
    """A kernel to read: ``kind`` is "core", "live" or "qemu"; ``path`` what was opened."""

    prog: Program
    memory: Memory
    kind: str
    path: str
    format: str
    warnings: tuple[str, ...] = ()


def open_core(path: Path, symbols: Sequence[Path] = ()) -> Target:
    """Open the crash dump ``path`` with the vmlinux among ``symbols``, or the one drgn finds.

    Raises TargetError (no kernel dump), NoDebugInfoError (no vmlinux, or one of another build),
    CannotAnswerError (no KSM in that kernel, or page tables we can't decode).
    """
    dump = inspect(path)
    prog = Program()
    try:
        prog.set_core_dump(path)
    except (ValueError, OSError, LookupError) as error:
        raise TargetError(
            _cut(dump) or f"{path} can't be opened as a kernel dump: {error}"
        ) from error
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(
            f"{path} is a core dump without a Linux kernel in it (no VMCOREINFO note)",
            hint="is it the core of a user process? From QEMU, add -device vmcoreinfo",
        )
    try:
        load_symbols(prog, symbols)
        memory = _memory(prog, dump)
    except FaultError as error:
        why = _cut(dump) or f"{path} is damaged"
        raise TargetError(f"{why} (the kernel's own data can't be read: {error})") from error
    return Target(prog, memory, "core", str(path), dump.format, _warnings(dump))


def from_program(prog: Program) -> Target:
    """The target of a drgn Program that has one, with symbols loaded: inside drgn itself."""
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(
            "this drgn session does not look at a Linux kernel", hint="drgn -c VMCORE"
        )
    path = prog.core_dump_path
    if path is None:
        return Target(prog, Memory(prog), "live", "the running kernel", "kcore")
    dump = inspect(Path(path))
    return Target(prog, _memory(prog, dump), "core", path, dump.format, _warnings(dump))


def load_symbols(prog: Program, symbols: Sequence[Path]) -> None:
    """Load the kernel's debug information from ``symbols``, else from where drgn looks.

    Raises NoDebugInfoError with the kernel's release and what to install.
    """
    release = kernel_release(prog)
    missing = [path for path in symbols if not path.is_file()]
    if missing:
        raise NoDebugInfoError(f"symbols {missing[0]} do not exist")
    try:
        if symbols:
            prog.load_debug_info(symbols)
        else:
            prog.load_debug_info(main=True)
    except (MissingDebugInfoError, ValueError, OSError) as error:
        if symbols:
            raise NoDebugInfoError(f"{symbols[0]} can't be used as symbols: {error}") from error
    main = prog.main_module()
    if main.debug_file_status != ModuleFileStatus.HAVE:
        build_id = main.build_id.hex() if main.build_id else "unknown"
        if symbols:
            raise NoDebugInfoError(
                f"{symbols[0]} is not the vmlinux of this kernel, {release} (build-id {build_id})",
                hint=_install(release),
            )
        raise NoDebugInfoError(
            f"no debug information found for kernel {release} (build-id {build_id})",
            hint=f"{_install(release)}, or name the file with --symbols VMLINUX",
        )


def kernel_release(prog: Program) -> str:
    """The ``uname -r`` of the kernel, from VMCOREINFO: needs no symbols."""
    return prog["UTS_RELEASE"].string_().decode(errors="replace")


def require_ksm(prog: Program) -> None:
    """Raise CannotAnswerError unless this kernel has KSM and page tables that we can decode."""
    platform = prog.platform
    if platform is None or platform.arch != Architecture.X86_64:
        name = platform.arch.name if platform else "unknown"
        raise CannotAnswerError(f"page tables of architecture {name} can't be decoded, only X86_64")
    if "ksm_mm_head" not in prog:
        raise CannotAnswerError(f"kernel {kernel_release(prog)} is built without CONFIG_KSM")


def _memory(prog: Program, dump: DumpFile) -> Memory:
    return MappedElf(prog, dump) if dump.format == "elf" else Memory(prog)


def _cut(dump: DumpFile) -> str:
    if not dump.missing_bytes:
        return ""
    whole = dump.size_bytes + dump.missing_bytes
    return f"{dump.path} is cut off: it has {dump.size_bytes:,} of {whole:,} bytes"


def _warnings(dump: DumpFile) -> tuple[str, ...]:
    cut = _cut(dump)
    return (cut,) if cut else ()


def _install(release: str) -> str:
    if "amd64" in release or "deb" in release:
        return f"on Debian: apt-get install linux-image-{release}-dbg"
    if ".el" in release or ".fc" in release:
        return f"on Fedora or RHEL: dnf debuginfo-install kernel-{release}"
    if release.endswith(("-generic", "-aws", "-azure", "-gcp")):
        return f"on Ubuntu: apt-get install linux-image-{release}-dbgsym"
    return f"get the vmlinux with debug information of {release}"

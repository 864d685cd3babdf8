"""Types and symbols of a kernel: what it carries itself, or its vmlinux with debug information."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from drgn import FaultError, MissingDebugInfoError, ModuleFileStatus, Program

from estimator.collect.limits import own_limits
from estimator.errors import EstimatorError, NoDebugInfoError, TargetError
from estimator.kernel.carried import CarriedSymbols, carries_symbols, carry_symbols
from estimator.kernel.ksm_settings import features
from estimator.kernel.symbol_files import refuse_no_vmlinux
from estimator.kernel.symbol_hints import DEBUGINFOD, debuginfod_servers, hint_elsewhere
from estimator.kernel.vmcoreinfo import kernel_build_id, kernel_release

OWN = Path("btf")
"""Named in place of a file: only what the kernel carries itself."""


def load_symbols(prog: Program, symbols: Sequence[Path]) -> None:
    """Give ``prog`` types and symbols: what the kernel carries itself, or debug information.

    Debug information is taken if ``symbols`` names it, or if it lies where drgn looks for it and is
    better at something: it tells functions that were inlined, which show some features. It is also
    looked for, by debuginfod as well, where the kernel carries too little. ``symbols`` [OWN]: only
    what the kernel carries.

    Raises NoDebugInfoError with the kernel's release and what to install, TargetError for a damaged
    dump, ResourceError where this machine lacks memory or files.
    """
    if list(symbols) == [OWN]:
        with own_limits():
            carry_symbols(prog)
        return
    own = None if symbols else _own_symbols(prog)
    if isinstance(own, CarriedSymbols):
        if not features(prog)["features_by_release"] or not _found_here(prog):
            return
        own.withdraw(prog)
    _load_debug_info(prog, symbols, own if isinstance(own, EstimatorError) else None)


def knows_symbols(prog: Program) -> bool:
    """Whether ``prog`` has types and symbols already."""
    return carries_symbols(prog) or _has_debug_information(prog)


def _has_debug_information(prog: Program) -> bool:
    try:
        return prog.main_module().debug_file_status == ModuleFileStatus.HAVE
    except LookupError:
        return False


def source_of_symbols(prog: Program) -> str:
    """``info["symbols"]``: "BTF" or "debug information"."""
    return "BTF" if carries_symbols(prog) else "debug information"


def say_symbols(prog: Program) -> str:
    """Which types and symbols are used, in words."""
    if carries_symbols(prog):
        return "the kernel's own, from its memory (BTF, kallsyms)"
    return f"{prog.main_module().debug_file_path} fits"


def _own_symbols(prog: Program) -> CarriedSymbols | EstimatorError:
    try:
        with own_limits():
            return carry_symbols(prog)
    except (NoDebugInfoError, TargetError) as error:
        return error


def _found_here(prog: Program) -> bool:
    """Whether debug information was found without asking a server."""
    enabled = prog.enabled_debug_info_finders()
    prog.set_enabled_debug_info_finders([name for name in enabled if name != DEBUGINFOD])
    with own_limits(), contextlib.suppress(MissingDebugInfoError, ValueError):
        prog.load_debug_info(main=True)
    prog.set_enabled_debug_info_finders(enabled)
    return _has_debug_information(prog)


def _load_debug_info(prog: Program, symbols: Sequence[Path], refused: Exception | None) -> None:
    """``refused``: why the kernel's own can't be used."""
    release = kernel_release(prog)
    try:
        with own_limits():
            for path in symbols:
                refuse_no_vmlinux(path)
            _load(prog, symbols)
    except FaultError as error:
        raise TargetError(
            f"the dump is damaged or cut off (the kernel's own data can't be read: {error})"
        ) from error
    except (MissingDebugInfoError, ValueError, OSError) as error:
        if symbols:
            raise NoDebugInfoError(f"{symbols[0]} can't be used as symbols: {error}") from error
    if not _has_debug_information(prog):
        build_id = kernel_build_id(prog) or "unknown"
        if symbols:
            raise NoDebugInfoError(
                f"{symbols[0]} is not the vmlinux of this kernel, {release} (build-id {build_id})",
                hint=hint_elsewhere(release),
            )
        why = f": {refused}" if refused else ""
        raise NoDebugInfoError(
            f"no debug information found for kernel {release} (build-id {build_id}){why}",
            hint=f"{hint_elsewhere(release)}, or name the file with --symbols VMLINUX, "
            "or a server with export DEBUGINFOD_URLS=...",
        )
    main = prog.main_module()
    path = main.debug_file_path
    if main.build_id and not _is_of_build(path, main.build_id):
        raise NoDebugInfoError(
            f"{path} was found by build-id {main.build_id.hex()}, but is of another",
            hint=f"remove it; {hint_elsewhere(release)}, or name the file with --symbols VMLINUX",
        )


def _load(prog: Program, symbols: Sequence[Path]) -> None:
    """Let drgn load them. MemoryError and OSError are our own limits.

    drgn goes on without a file that it can't open, and has no class for what libelf says.
    """
    try:
        if symbols:
            prog.load_debug_info(symbols)
        else:
            _ask_debuginfod(prog)
            prog.load_debug_info(main=True)
    except Exception as error:
        if "out of memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
    finally:
        with open(os.devnull, "rb"):
            pass


def _ask_debuginfod(prog: Program) -> None:
    """Let drgn ask the servers that the user named.

    By itself it does so only for Fedora's kernels, since others are slow to download.
    """
    enabled = prog.enabled_debug_info_finders()
    known = DEBUGINFOD in prog.registered_debug_info_finders()
    if debuginfod_servers() and known and DEBUGINFOD not in enabled:
        prog.set_enabled_debug_info_finders([*enabled, DEBUGINFOD])


def _is_of_build(path: str | None, build_id: bytes) -> bool:
    """Whether ``path`` has that build-id; drgn trusts servers, and paths that say it."""
    module = Program().extra_module("vmlinux", create=True)
    module.build_id = build_id
    if path is not None:
        module.try_file(path)
    return module.debug_file_status == ModuleFileStatus.HAVE

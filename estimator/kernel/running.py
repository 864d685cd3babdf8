"""A system that runs, as a drgn Program: this machine's kernel, or a QEMU guest of this machine."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path

from drgn import FaultError, Program, ProgramFlags

from estimator.collect.capabilities import SYS_RAWIO, capabilities
from estimator.collect.limits import own_limits
from estimator.errors import (
    AS_ROOT,
    CannotAnswerError,
    NoDebugInfoError,
    ResourceError,
    TargetError,
)
from estimator.kernel.arch import require_architecture
from estimator.kernel.kcore import KCORE
from estimator.kernel.memory.running import RunningMemory
from estimator.kernel.symbol_hints import hint_here
from estimator.kernel.symbols import load_symbols
from estimator.kernel.target import Target
from estimator.kernel.vmcoreinfo import kernel_release

LOCKDOWN = Path("/sys/kernel/security/lockdown")
_GREETING_SECONDS = 5.0


def open_live(symbols: Sequence[Path] = ()) -> Target:
    """The kernel of this machine, through /proc/kcore.

    Raises TargetError (not root, no kcore, locked down), NoDebugInfoError, CannotAnswerError.
    """
    if os.geteuid() != 0:
        raise TargetError("reading the running kernel needs root", hint=AS_ROOT)
    prog = Program()
    try:
        with own_limits():
            prog.set_kernel()
    except (OSError, ValueError, FaultError) as error:
        raise TargetError(kcore_refused() or f"{KCORE} can't be read: {error}") from error
    require_architecture(prog)
    try:
        load_symbols(prog, symbols)
    except NoDebugInfoError as error:
        if symbols:
            raise
        raise NoDebugInfoError(error.message, hint=hint_here(kernel_release(prog))) from error
    return Target(prog, RunningMemory(prog), "live", str(KCORE), "kcore")


def kcore_refused() -> str | None:
    """Why this machine does not let /proc/kcore be read, found by looking; None if it does."""
    mode = lockdown()
    instead = "; collect --procfs reads the same from /proc/PID/pagemap and mem"
    if not KCORE.exists():
        return f"this kernel has no {KCORE} (no CONFIG_PROC_KCORE, or a container){instead}"
    try:
        with own_limits(), KCORE.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                return f"{KCORE} is empty: a container masks it{instead}"
    except OSError as error:
        if error.errno == errno.EPERM and not capabilities() >> SYS_RAWIO & 1:  # open_kcore()
            return f"{KCORE} is forbidden: we have no CAP_SYS_RAWIO, as in a container{instead}"
        if mode == "confidentiality":
            return f"{KCORE} is forbidden: the kernel is locked down (confidentiality){instead}"
        if error.errno == errno.EPERM and mode is None:
            return f"{KCORE} is forbidden, as where the kernel is locked down{instead}"
        return f"{KCORE} can't be opened: {error.strerror}{instead}"
    return None


def lockdown() -> str | None:
    """The lockdown mode of this machine: none, integrity or confidentiality; None if unknown."""
    with contextlib.suppress(OSError):
        text = LOCKDOWN.read_text()
        return text.partition("[")[2].partition("]")[0] or None
    return None


def open_qemu(address: str, symbols: Sequence[Path] = ()) -> Target:
    """A guest of this machine through QEMU's monitor protocol; ``address``: socket or HOST:PORT.

    Raises TargetError (no socket, monitor in use, not a Linux guest with vmcoreinfo),
    NoDebugInfoError, CannotAnswerError.
    """
    gc.collect()  # a Program of before that is garbage by now still holds the monitor
    monitor = _connect(address)
    prog = Program()
    try:
        with own_limits():
            prog.set_qemu_qmp(monitor.fileno())
    except ResourceError:
        raise
    except Exception as error:  # drgn has no narrower class for what QEMU says
        raise TargetError(f"the guest behind {address} can't be read: {error}") from error
    finally:
        monitor.detach()  # belongs to drgn now, which has closed it if that failed
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(
            f"the guest behind {address} does not say where its kernel is",
            hint="start QEMU with -device vmcoreinfo; the guest needs the module qemu_fw_cfg",
        )
    require_architecture(prog)
    load_symbols(prog, symbols)
    warnings = () if monitor_is_local(address) else (_SLOW,)
    return Target(prog, RunningMemory(prog), "qemu", address, "qmp", warnings)


_SLOW = "over TCP the guest's memory is read 1 KiB at a time; use the monitor's Unix socket"


def monitor_is_local(address: str) -> bool:
    """Whether ``address`` is the path of a Unix socket, by drgn's rule."""
    return address.startswith(("/", ".")) or not address.rpartition(":")[2].isdecimal()


def _connect(address: str) -> socket.socket:
    """The monitor, once it has greeted: it serves one client and lets all others wait."""
    try:
        with own_limits():
            if monitor_is_local(address):
                monitor = socket.socket(socket.AF_UNIX)
                monitor.connect(address)
            else:
                host, _, port = address.rpartition(":")
                monitor = socket.create_connection((host or "localhost", int(port)))
    except FileNotFoundError as error:
        raise TargetError(
            f"{address} does not exist", hint="start QEMU with -qmp unix:PATH,server=on,wait=off"
        ) from error
    except OSError as error:
        raise TargetError(
            f"{address} can't be connected to: {error.strerror or error}",
            hint="name the socket of a QEMU started with -qmp unix:PATH,server=on,wait=off",
        ) from error
    if not select.select([monitor], [], [], _GREETING_SECONDS)[0]:
        monitor.close()
        raise TargetError(
            f"{address} does not answer, another client seems to hold it",
            hint="give QEMU a second monitor: -qmp unix:PATH,server=on,wait=off",
        )
    if b"QMP" not in monitor.recv(32, socket.MSG_PEEK):
        monitor.close()
        raise CannotAnswerError(f"{address} is not a QMP monitor (the human monitor?)")
    return monitor

"""Whether /proc shows this whole machine to us; a container may not have been given all of it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from estimator.collect.capabilities import SYS_ADMIN, SYS_PTRACE, capabilities
from estimator.collect.namespaces import in_first_namespace
from estimator.errors import AS_ROOT, CannotAnswerError, TargetError
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.pagemap import own_page
from estimator.procfs.processes import PROC, Process

# who may see PFNs, and who the memory of all processes
_NEEDED = {"CAP_SYS_ADMIN": SYS_ADMIN, "CAP_SYS_PTRACE": SYS_PTRACE}
_READ_HERE = {"x86_64": (4096,), "aarch64": (4096, 16384, 65536)}
"""Pages of which sizes are read on which machines."""
_KSM = Path("/sys/kernel/mm/ksm")


def require_rights() -> None:
    """Raise unless this machine shows all to us and has KSM, and pages of the size read here."""
    machine = platform.machine()
    if PAGE_BYTES not in _READ_HERE.get(machine, ()):
        raise CannotAnswerError(
            f"{machine} with pages of {PAGE_BYTES} bytes: --procfs reads x86_64 and arm64 (aarch64)"
        )
    # pagemap_open() in fs/proc/task_mmu.c asks the first one
    if not in_first_namespace(PROC, "user"):
        raise TargetError(
            "PFNs are hidden: this is a user namespace (a rootless container), its root is not the "
            "host's",
            hint="run it as root of the host",
        )
    if _pid_in_proc() != os.getpid():
        raise TargetError(
            f"{PROC} shows another pid namespace than the one we are in",
            hint=f"mount -t proc proc {PROC}, or enter the other one: nsenter -t 1 -p -m",
        )
    for name in ("kpageflags", "kpagecount"):
        _require_page_file(PROC / name)
    lacking = [name for name, bit in _NEEDED.items() if not capabilities(PROC) >> bit & 1]
    if lacking:
        raise TargetError(
            f"this process has no {' and no '.join(lacking)}, like root in an ordinary container",
            hint="run it as root of the host, or in a container with "
            + " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in lacking),
        )
    with own_page() as pfn:  # pagemap_read() in fs/proc/task_mmu.c
        if pfn == 0:
            raise TargetError("PFNs are hidden, for all that we have CAP_SYS_ADMIN")
    if not _KSM.is_dir():
        if not _KSM.parent.is_dir():
            raise TargetError(
                f"there is no {_KSM.parent}: sysfs is not mounted here",
                hint="try: mount -t sysfs sysfs /sys",
            )
        raise CannotAnswerError(f"kernel {platform.release()} is built without CONFIG_KSM")


@dataclass(frozen=True)
class PartOfHost:
    """What a pid namespace shows of its host, in threads: those of the kernel are the host's."""

    threads: int
    host_threads: int

    def __str__(self) -> str:
        return (
            f"this pid namespace (a container) has {self.threads:,} of the host's "
            f"{self.host_threads:,} threads"
        )


def part_of_host() -> PartOfHost | None:
    """How much of the host is in our pid namespace; None if it is the host's own.

    /proc/loadavg counts the threads of all namespaces (loadavg_proc_show() in fs/proc/loadavg.c).
    """
    if in_first_namespace(PROC, "pid"):
        return None
    threads = 0
    for task in PROC.glob("[0-9]*/task"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            threads += len(os.listdir(task))
    host_threads = int((PROC / "loadavg").read_text().split()[3].partition("/")[2])
    return PartOfHost(threads, host_threads)


def require_memory(processes: Iterable[Process]) -> None:
    """Raise TargetError if the memory of one of ``processes``, none of which was read, is denied.

    We have the capabilities; a security module (AppArmor in a container) can deny it all the same.
    """
    for process in processes:
        if memory_denied(process):
            raise TargetError(
                f"the memory of no process may be read: {PROC}/{process.pid}/smaps is denied, as "
                "by a security module",
                hint="run it on the host, or in a container with "
                "--security-opt apparmor=unconfined (SELinux: label=disable)",
            )


def memory_denied(process: Process) -> bool:
    """Whether the smaps of a process may not be read by us."""
    try:
        with (PROC / str(process.pid) / "smaps").open("rb", buffering=0) as file:
            file.read(1)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _pid_in_proc() -> int:
    """What number we have in the pid namespace that /proc shows; 0: none."""
    try:
        return int(os.readlink(PROC / "self"))
    except FileNotFoundError:
        return 0


def _require_page_file(path: Path) -> None:
    if not path.exists():
        raise TargetError(
            f"there is no {path}: {PROC} is mounted with subset=pid, or the kernel is built "
            "without CONFIG_PROC_PAGE_MONITOR"
        )
    if path.is_char_device():
        raise TargetError(
            f"{path} is masked, as in a container",
            hint="run it as root of the host, or in a container with "
            "--security-opt systempaths=unconfined",
        )
    if not os.access(path, os.R_OK):
        raise TargetError(f"{path} can't be read: PFNs need root (CAP_SYS_ADMIN)", hint=AS_ROOT)

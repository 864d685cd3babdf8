"""Read what a running system says about KSM: /sys/kernel/mm/ksm and /proc/PID/ksm_stat."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from estimator.errors import CannotAnswerError, TargetError
from estimator.snapshot.identity import Identity
from estimator.snapshot.reality import Reality, RealProcess


def read_reality(root: Path = Path("/")) -> Reality:
    """The KSM numbers of the system whose /sys and /proc lie under ``root``.

    Raises CannotAnswerError if its kernel has no KSM, TargetError if the files can't be read.
    """
    directory = root / "sys/kernel/mm/ksm"
    if not directory.is_dir():
        raise CannotAnswerError(
            f"there is no {directory}: this kernel has no KSM",
            hint="run verify on the system that the snapshot was taken of",
        )
    try:
        files = {file.name: file.read_text().strip() for file in directory.iterdir()}
    except OSError as error:
        raise TargetError(f"{error.filename} can't be read: {error.strerror}") from error
    ksm = {name: int(text) for name, text in files.items() if text.lstrip("-").isdigit()}
    processes = []
    for place in sorted((root / "proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            comm = (place / "comm").read_bytes().decode(errors="replace").removesuffix("\n")
            processes.append(RealProcess(int(place.name), comm, _ksm_stat(place)))
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        except PermissionError as error:
            raise TargetError(f"{error.filename}: permission denied", hint="run as root") from error
    return Reality(ksm, processes, ksmd_cpu_seconds(root), read_identity(root))


def ksmd_cpu_seconds(root: Path = Path("/")) -> float | None:
    """CPU time of ksmd since boot; None if it is not seen, as in a container."""
    for place in (root / "proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "comm").read_bytes() == b"ksmd\n" and not (place / "cmdline").read_bytes():
                return _cpu_seconds(place)
    return None


def read_identity(root: Path = Path("/")) -> Identity:
    """Which system it is whose /proc and /etc lie under ``root``; None for what can't be read."""
    kernel = root / "proc/sys/kernel"
    return Identity(
        boot_id=_line(kernel / "random/boot_id"),
        machine_id=_line(root / "etc/machine-id"),
        host=_line(kernel / "hostname"),
        release=_line(kernel / "osrelease"),
    )


def _line(path: Path) -> str | None:
    """The text of a file of one line; None where it is missing, unreadable or empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _ksm_stat(process: Path) -> dict[str, int]:
    """The numbers of ksm_stat; empty for a kernel thread."""
    try:
        lines = (process / "ksm_stat").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.split() for line in lines)
    return {
        p[0].rstrip(":"): int(p[1]) for p in pairs if len(p) == 2 and p[1].lstrip("-").isdigit()
    }


def _cpu_seconds(process: Path) -> float:
    """User and system time of a process, from fields 14 and 15 of its stat."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

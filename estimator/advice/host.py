"""What runs on the host that decides how a person opts something in."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Mask
from estimator.snapshot.snapshot import Snapshot

HYPERVISORS = (
    "qemu",
    "kvm",
    "cloud-hyperviso",
    "firecracker",
    "crosvm",
    "vmware-vmx",
    "VBoxHeadless",
)
"""How the names of processes begin that are virtual machines (comm has at most 15 characters)."""

SYSTEMD_WITH_MEMORY_KSM = 254
SYSTEMD_WITH_WORKING_MEMORY_KSM = 256
"""Before, systemd calls the prctl with arguments missing and the service fails (systemd#31683)."""

_LIBSYSTEMD = re.compile(r"/libsystemd-shared-(\d+)\b")
_EXEC_KEEPS = (6, 7)
"""MMF_VM_MERGE_ANY survives exec since 6.7 (3c6f33b7273a)."""

_NAME = re.compile(r"(?:^|[ \0])-name[ \0](?:guest=)?([^, \0]+)")
_MEMORY = re.compile(
    r"(?:[ \0]-m[ \0](?:size=)?|memory-backend-ram[^ \0]*?[,\"]size[\"]?[=:])(\d+)([KMGTkmgt]?)"
)
_UNITS = {"": 20, "K": 10, "M": 20, "G": 30, "T": 40}  # a bare number is MiB


@dataclass(frozen=True)
class Host:
    """What a snapshot shows of the host.

    ``systemd_version``: from the library that pid 1 maps; None: not seen. ``ksmtuned``: it runs,
    and sets ksmd itself. ``exec_keeps``: what opted in by prctl stays opted in through exec.
    """

    systemd_version: int | None
    ksmtuned: bool
    exec_keeps: bool

    @property
    def memory_ksm_fails(self) -> bool:
        """Whether MemoryKSM= is known not to work: unknown to systemd, or its trap."""
        version = self.systemd_version
        return version is not None and version < SYSTEMD_WITH_WORKING_MEMORY_KSM

    @property
    def memory_ksm_works(self) -> bool:
        """Whether systemd is known to carry out MemoryKSM=."""
        return self.systemd_version is not None and not self.memory_ksm_fails


def host_of(snapshot: Snapshot) -> Host:
    """What ``snapshot`` shows of its host."""
    init = (snapshot.processes["pid"] == 1).to_numpy()[snapshot.vmas["mm_id"].to_numpy()]
    versions = [_LIBSYSTEMD.search(name) for name in snapshot.vmas["name"][init]]
    release = re.match(r"(\d+)\.(\d+)", str(snapshot.info["kernel"]["release"]))
    keeps = release is None or (int(release[1]), int(release[2])) >= _EXEC_KEEPS
    return Host(
        systemd_version=next((int(found[1]) for found in versions if found), None),
        ksmtuned=bool((snapshot.processes["comm"] == "ksmtuned").any()),
        exec_keeps=keeps,
    )


def is_virtual_machine(processes: pd.DataFrame) -> Mask:
    """Which processes are virtual machines, by their names (bool per row)."""
    program = [
        PurePosixPath(cmdline.split(" ")[0].split("\0")[0]).name if isinstance(cmdline, str) else ""
        for cmdline in processes["cmdline"]
    ]
    return np.array(
        [
            comm.startswith(HYPERVISORS) or name.startswith(HYPERVISORS)
            for comm, name in zip(processes["comm"], program, strict=True)
        ],
        np.bool_,
    )


def machine_names(processes: pd.DataFrame) -> npt.NDArray[np.object_]:
    """What people call each virtual machine: QEMU's ``-name``, else (or twice) program and pid.

    A str per row of ``processes``, "" where it is no virtual machine.
    """
    names = np.full(len(processes), "", np.object_)
    machines = np.flatnonzero(is_virtual_machine(processes))
    given = [_NAME.search(str(cmdline)) for cmdline in processes["cmdline"].iloc[machines]]
    called = Counter(found[1] for found in given if found)
    for row, found in zip(machines, given, strict=True):
        unique = found is not None and called[found[1]] == 1
        pid = f"{processes['comm'].iloc[row]} {processes['pid'].iloc[row]}"
        names[row] = found[1] if found and unique else pid
    return names


def guest_memory(snapshot: Snapshot) -> Mask:
    """Which VMAs are the memory of a guest of QEMU, that it offers to KSM itself (bool per VMA).

    Nameless ones as large as a memory of its command line (``-m``, ``memory-backend-ram``): the
    blocks of RAM that ram_block_add() in QEMU's system/physmem.c gives to MADV_MERGEABLE, unless
    the machine has ``mem-merge=off``.
    """
    processes, vmas = snapshot.processes, snapshot.vmas
    smallest = np.full(len(processes), np.iinfo(np.uint64).max, np.uint64)
    for row in np.flatnonzero(is_virtual_machine(processes)):
        cmdline = processes["cmdline"].iloc[row]
        if isinstance(cmdline, str) and (found := _MEMORY.findall(cmdline)):
            smallest[row] = min(int(n) << _shift(n, unit) for n, unit in found)
    large = (vmas["end"] - vmas["start"]).to_numpy() >= smallest[vmas["mm_id"].to_numpy()]
    found_rows: Mask = large & (vmas["name"] == "").to_numpy()
    return found_rows


def _shift(number: str, unit: str) -> int:
    """libvirt writes the size of a memory-backend-ram in bytes, without a unit."""
    return 0 if not unit and int(number) >= 1 << 22 else _UNITS[unit.upper()]

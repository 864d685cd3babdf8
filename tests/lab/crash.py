"""A guest that panics: its crash kernel runs makedumpfile on /proc/vmcore, as kdump does."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import makedumpfile
from tests.lab.apt import LabError
from tests.lab.guest import CONSOLES, Guest
from tests.lab.initramfs import build_initramfs
from tests.lab.kernels import Kernel
from tests.lab.programs import build
from tests.lab.running import DISK_MODULES
from tests.lab.workload import Session, Workload

CRASH_KERNEL_MIB = 256
SPARE_MIB = 128  # or the kernel, at a random place, leaves no room in one piece
CRASH_SECONDS = 240.0
DISK_BYTES = 8 << 30  # sparse
COMMAND_LINE = "loglevel=4 nr_cpus=1 reset_devices panic=-1"

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /tmp /mnt
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for module in {modules}; do insmod /modules/$module.ko; done
mount -t ext4 /dev/vda /mnt
cd /mnt
{commands}
cd /
umount /mnt
poweroff -f
"""


def crash(
    workload: Workload, kernel: Kernel, directory: Path, dumps: Mapping[str, Sequence[str]]
) -> None:
    """Panic in the middle of ``workload`` and write ``dumps`` of that moment to ``directory``.

    ``dumps``: {options of makedumpfile: names of the files it writes}. With the options "" the
    vmcore is copied as it is.
    """
    with tempfile.TemporaryDirectory(prefix="ksm-lab-crash.") as temporary:
        initramfs, disk = Path(temporary) / "initramfs", Path(temporary) / "disk"
        tool = makedumpfile.guest_command(kernel.machine)
        commands = "\n".join(_command(tool, *dump) for dump in dumps.items())
        build_initramfs(
            kernel,
            initramfs,
            modules=("virtio_pci", *DISK_MODULES),
            files=makedumpfile.files_for_guest(kernel.machine),
            init=INIT.replace("{commands}", commands),
        )
        with disk.open("wb") as file:
            os.truncate(file.fileno(), DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(disk)], check=True)
        _panic(workload, kernel, initramfs, disk)
        for name in (name for names in dumps.values() for name in names):
            _copy_out(disk, name, directory / name)


def _command(tool: str, options: str, names: Sequence[str]) -> str:
    if not options:
        return f"cp /proc/vmcore {names[0]}"
    command = f"{tool} {options} --message-level 4 /proc/vmcore"
    return f"{command} > {names[0]}" if "-F" in options.split() else f"{command} {' '.join(names)}"


def _panic(workload: Workload, kernel: Kernel, initramfs: Path, disk: Path) -> None:
    files = {f"/bin/{name}": build(name, kernel) for name in ("actor", "probe", "crash_load")}
    files |= {"/vmlinuz": kernel.vmlinuz, "/crash-initramfs": initramfs}
    with Guest(
        kernel,
        memory_mib=workload.memory_mib_of(kernel.page_bytes) + CRASH_KERNEL_MIB + SPARE_MIB,
        files=files,
        arguments=(f"crashkernel={CRASH_KERNEL_MIB}M",),
        qemu=("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"),
    ) as guest:
        session = Session(guest, workload)
        session.set_up()
        command_line = f"console={CONSOLES[kernel.machine]} {COMMAND_LINE}"
        guest.run(f"crash_load /vmlinuz /crash-initramfs '{command_line}'")
        guest.run("rm /vmlinuz /crash-initramfs")
        for script in workload.scripts:
            session.start(script)
        if workload.before_dump:
            workload.before_dump(session)
        guest.run_to_its_end("echo c > /proc/sysrq-trigger", timeout_seconds=CRASH_SECONDS)


def _copy_out(disk: Path, name: str, destination: Path) -> None:
    command = ["debugfs", "-R", f"dump /{name} {destination}", str(disk)]
    subprocess.run(command, capture_output=True, check=True)
    if not destination.exists() or not destination.stat().st_size:
        raise LabError(f"the crash kernel did not write {name}")

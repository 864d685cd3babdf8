"""A guest with Debian, systemd as its init, and the files of ``services`` laid over it.

The image stays as it is: what the guest writes goes to a file that QEMU forgets.
"""

from __future__ import annotations

import base64
import contextlib
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.debian import package_zip
from tests.lab.guest import Guest
from tests.lab.kernels import Kernel
from tests.lab.programs import build
from tests.lab.running import WITHOUT_AVX2
from tests.lab.user_space import ESTIMATOR, PYTHON, user_space

SERVICES = Path(__file__).with_name("services")
MEMORY_MIB = 3072
BOOT_SECONDS = 600.0
PATIENCE_SECONDS = 1800.0  # emulated, and on a busy machine: only what hangs should end so
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /root
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
for module in {modules}; do insmod /modules/$module.ko; done
mount -t ext4 /dev/vda /root
tar -x -C /root -f /overlay.tar
umount /dev
exec switch_root /root /sbin/init
"""
ARGUMENTS = (
    *("numa_balancing=disable", "systemd.unit=lab.target", "systemd.firstboot=no"),
    *("systemd.default_timeout_start_sec=600", "systemd.show_status=no"),
)
PACKAGE = "/opt/package.zip"
ENVIRONMENT = f"PYTHONPATH={PACKAGE}:/{ESTIMATOR} PYTHONDONTWRITEBYTECODE=1"


@dataclass(frozen=True)
class SystemdGuest:
    """``guest`` has its shell in a unit of its own; ``monitor``: a QMP socket that nobody uses."""

    guest: Guest
    monitor: Path

    def run(self, command: str) -> str:
        """Run a command of any length in the guest; LabError if it fails."""
        return self.guest.run(command, timeout_seconds=PATIENCE_SECONDS)

    def estimator(self, *commands: str) -> str:
        """Run ``ksm-estimator`` with each of these arguments, all at once; what they print."""
        program = f"env -i PATH=/usr/bin:/bin {ENVIRONMENT} HOME=/root python3 -m estimator"
        started = " ".join(f'{program} {command} & all="$all $!";' for command in commands)
        return self.run(f"(all=; {started} for pid in $all; do wait $pid || exit; done)")

    def fetch(self, directory: str, destination: Path) -> Path:
        """Copy a directory of the guest to ``destination``."""
        text = self.run(f"tar -C {directory} -c . | base64")
        destination.mkdir()
        command = ["tar", "-C", str(destination), "-x"]
        subprocess.run(command, input=base64.b64decode(text), check=True)
        return destination


@contextlib.contextmanager
def systemd_guest(kernel: Kernel, directory: Path) -> Iterator[SystemdGuest]:
    """Boot one up to the lab's shell; no program runs yet. Sockets go to ``directory``."""
    monitor, overlay = directory / "monitor", directory / "overlay.tar"
    _write_overlay(overlay, package_zip(directory / "package.zip", PYTHON))
    disk = f"file={user_space()},format=raw,if=virtio,snapshot=on"
    with Guest(
        kernel,
        memory_mib=MEMORY_MIB,
        cpu=WITHOUT_AVX2,
        modules=("virtio_blk",),
        files={"/overlay.tar": overlay},
        arguments=ARGUMENTS,
        qemu=("-qmp", f"unix:{monitor},server=on,wait=off", "-drive", disk),
        init=INIT,
        boot_seconds=BOOT_SECONDS,
    ) as guest:
        yield SystemdGuest(guest, monitor)


def _write_overlay(destination: Path, package: Path) -> None:
    with tarfile.open(destination, "w") as archive:
        for path in sorted(SERVICES.rglob("*")):
            _add(archive, path, str(path.relative_to(SERVICES)))
        _add(archive, build("probe"), "usr/local/bin/probe")
        _add(archive, package, PACKAGE.lstrip("/"))


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    entry = archive.gettarinfo(path, name)
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    if path.is_file():
        with path.open("rb") as content:
            archive.addfile(entry, content)
    else:
        archive.addfile(entry)

"""A frozen workload in a guest that a test looks into while it runs."""

from __future__ import annotations

import base64
import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.debian import PYTHON, debian_image, package_zip, symbols_image
from tests.lab.guest import Guest
from tests.lab.kernels import Kernel
from tests.lab.programs import build
from tests.lab.workload import Session, Workload

RUN_SECONDS = 900.0  # emulated, and on a busy machine: only what hangs should end so


@dataclass(frozen=True)
class Running:
    """A guest with its workload; ``monitor``: a QMP socket that nobody uses."""

    guest: Guest
    session: Session
    monitor: Path

    def estimator(self, arguments: str, *, timeout_seconds: float = RUN_SECONDS) -> tuple[int, str]:
        """Run the command ``ksm-estimator`` in the guest's Debian; exit status and output."""
        return self.python(f"-m estimator {arguments}", timeout_seconds=timeout_seconds)

    def python(self, arguments: str, *, timeout_seconds: float = RUN_SECONDS) -> tuple[int, str]:
        """Run Python in the guest's Debian, where the package is installed; status and output."""
        status, output = self.guest.run_raw(
            self.command(arguments), timeout_seconds=timeout_seconds
        )
        return status, output.decode(errors="replace")

    def command(self, arguments: str) -> str:
        """What the guest's shell has to execute for that."""
        environment = "PYTHONPATH=/tmp/package.zip PYTHONDONTWRITEBYTECODE=1 HOME=/tmp"
        command = f"env -i {environment} /bin/busybox chroot {DEBIAN}"
        return f"{command} /usr/bin/python{PYTHON[self.guest.kernel.machine]} {arguments}"

    def fetch_snapshot(self, path: str, destination: Path) -> Path:
        """Copy the snapshot ``path`` of the guest to the directory ``destination``."""
        command = f"tar -C {DEBIAN}{path} -c . | uuencode -m -"  # in all busyboxes, base64 is not
        status, text = self.guest.run_raw(command, timeout_seconds=RUN_SECONDS)
        assert status == 0, text
        unpack = ["tar", "-C", str(destination), "-x"]
        _, *lines, _ = text.splitlines()
        subprocess.run(unpack, input=base64.b64decode(b"".join(lines)), check=True)
        return destination


DEBIAN = "/debian"
WITHOUT_AVX2 = "max,avx2=off"  # as QEMU 7.2 emulates it, NumPy's argsort() is wrong
DISK_MODULES = ("virtio_blk", "crc32c_generic", "ext4")
MEMORY_MIB = {4096: 1024, 16384: 2048, 65536: 4096}  # for Python, by the size of a page
MOUNT = f"""
mkdir {DEBIAN} && mount -r -t ext4 /dev/vda {DEBIAN} && mount -r -t ext4 /dev/vdb {DEBIAN}/symbols
for name in proc sys dev tmp; do mount -o bind /$name {DEBIAN}/$name || false; done
mkdir -p /dev/pts && mount -t devpts devpts {DEBIAN}/dev/pts
cp /package.zip /tmp
"""


@contextlib.contextmanager
def running(
    workload: Workload,
    kernel: Kernel,
    directory: Path,
    programs: Sequence[str] = (),
    *,
    debian: bool = False,
) -> Iterator[Running]:
    """Boot a guest and start ``workload`` in it; ``programs`` are there besides actor and probe.

    With ``debian`` it has a Debian user space with the package, and the kernel's symbols in
    /symbols of it. Sockets go to ``directory``.
    """
    files = {f"/bin/{name}": build(name, kernel) for name in ("actor", "probe", *programs)}
    disks: list[str] = []
    if debian:
        files["/package.zip"] = package_zip(directory / "package.zip", PYTHON[kernel.machine])
        for image in (debian_image(kernel.machine), symbols_image(kernel)):
            disks += ["-drive", f"file={image},format=raw,if=virtio,readonly=on"]
    monitor = directory / "monitor"
    with Guest(
        kernel,
        memory_mib=max(
            workload.memory_mib_of(kernel.page_bytes),
            MEMORY_MIB[kernel.page_bytes] if debian else 0,
        ),
        nodes=workload.nodes,
        cpu=WITHOUT_AVX2 if debian and kernel.machine == "x86_64" else "max",
        machine="mte=on" if workload.mte else "",
        modules=(*workload.modules, *(DISK_MODULES if debian else ())),
        files=files,
        arguments=("numa_balancing=disable",),
        qemu=("-qmp", f"unix:{monitor},server=on,wait=off", *disks),
    ) as guest:
        if debian:
            guest.run(MOUNT)
        session = Session(guest, workload)
        session.set_up()
        for script in workload.scripts:
            session.start(script)
        yield Running(guest, session, monitor)

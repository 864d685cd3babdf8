"""The user space of a guest: a cpio archive with busybox, modules and given files."""

from __future__ import annotations

import lzma
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab.apt import LabError
from tests.lab.kernels import Kernel

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /bin /sbin /proc /sys /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for module in {modules}; do insmod /modules/$module.ko; done
while true; do
    {shell}
    sleep 0.1
done
"""
_VIRTIO_SHELL = "[ ! -c /dev/vport0p1 ] || sh <>/dev/vport0p1 >&0 2>&0"
# as a script: on a terminal it would be interactive, with prompts and an editor of lines
_SERIAL_SHELL = "(stty raw -echo <&3 && sh /dev/ttyS1 >&3 2>&3) 3<>/dev/ttyS1"


def build_initramfs(
    kernel: Kernel,
    destination: Path,
    *,
    modules: Iterable[str],
    files: Mapping[str, Path],
    init: str = INIT,
) -> None:
    """Write the archive: ``modules`` are loaded at boot, ``files`` are {path in guest: source}.

    ``init`` is the script that boots, with ``{modules}`` in the order of loading, and ``{shell}``
    on the port that the kernel has a driver for.
    """
    loaded = _with_dependencies(kernel, modules)
    if not kernel.busybox.exists():
        raise LabError("there is no busybox; install busybox-static")
    with destination.open("wb") as archive:
        serial = 0

        def add(name: str, mode: int, content: bytes = b"") -> None:
            nonlocal serial
            serial += 1
            archive.write(_cpio_entry(serial, name, mode, content))

        for directory in ("bin", "dev", "modules"):
            add(directory, stat.S_IFDIR | 0o755)
        add("bin/busybox", stat.S_IFREG | 0o755, kernel.busybox.read_bytes())
        for name, content in loaded.items():
            add(f"modules/{name}.ko", stat.S_IFREG | 0o644, content)
        for name, source in files.items():
            add(name.lstrip("/"), stat.S_IFREG | 0o755, source.read_bytes())
        script = init.replace("{modules}", " ".join(loaded))
        script = script.replace("{shell}", _VIRTIO_SHELL if kernel.has_virtio else _SERIAL_SHELL)
        add("init", stat.S_IFREG | 0o755, script.encode())
        add("TRAILER!!!", 0)


def _cpio_entry(serial: int, name: str, mode: int, content: bytes) -> bytes:
    """One file in the "newc" format: header, name and content, each padded to 4 bytes."""
    encoded = name.encode() + b"\0"
    fields = (serial, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)


def _with_dependencies(kernel: Kernel, names: Iterable[str]) -> dict[str, bytes]:
    """The modules ``names`` and all that they depend on, in the order of loading.

    Names that this kernel does not have as a module (built in) are left out.
    """
    paths = {
        path.name.split(".ko")[0].replace("-", "_"): path for path in kernel.modules.rglob("*.ko*")
    }
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        name = name.replace("-", "_")
        if name in loaded or name not in paths:
            return
        content = paths[name].read_bytes()
        if paths[name].suffix == ".xz":
            content = lzma.decompress(content)
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for dependency in depends[1].decode().split(",") if depends and depends[1] else ():
            load(dependency)
        loaded[name] = content

    for name in names:
        load(name)
    return loaded

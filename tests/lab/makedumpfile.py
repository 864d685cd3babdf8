"""Debian's makedumpfile with its libraries, from the cache: run here and in a crash kernel."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from tests.lab.apt import Apt, LabError, unpack
from tests.lab.kernels import cache_directory, locked

PACKAGES = ("makedumpfile", "liblzo2-2", "libdw1", "libelf1", "zlib1g", "libbz2-1.0", "liblzma5")
C_LIBRARIES = {
    "x86_64": (Path("/lib64/ld-linux-x86-64.so.2"), Path("/lib/x86_64-linux-gnu/libc.so.6")),
    "aarch64": tuple(
        Path("/usr/aarch64-linux-gnu/lib") / name for name in ("ld-linux-aarch64.so.1", "libc.so.6")
    ),
}
_ELF_HEADER_BYTES, _PROGRAM_HEADER_BYTES = 64, 56


def guest_command(machine: str) -> str:
    """How a guest runs it."""
    return f"/bin/{C_LIBRARIES[machine][0].name} --library-path /bin /bin/makedumpfile"


def fetch_makedumpfile(machine: str = "x86_64") -> Path:
    """A directory with ``makedumpfile`` and the libraries it needs but the C library."""
    name = "makedumpfile" if machine == "x86_64" else f"makedumpfile-{machine}"
    directory = cache_directory() / name
    with locked(directory.with_suffix(".lock")):
        if not directory.exists():
            with tempfile.TemporaryDirectory(prefix=".", dir=directory.parent) as temporary:
                _unpack(Path(temporary), Path(temporary) / "entry", machine)
                (Path(temporary) / "entry").rename(directory)
    return directory


def _unpack(temporary: Path, entry: Path, machine: str) -> None:
    entry.mkdir()
    apt = Apt()
    if machine == "aarch64":
        apt = Apt.of_suite("debian", "bookworm", temporary / "apt", architecture="arm64")
        apt.update()
    apt.download(*PACKAGES, into=temporary)
    for package in temporary.glob("*.deb"):
        unpack(package, temporary / "root")
    (temporary / "root/usr/bin/makedumpfile").rename(entry / "makedumpfile")
    for library in (temporary / "root").rglob("lib*.so*"):
        (entry / library.name).write_bytes(library.read_bytes())


def makedumpfile(options: str, core: Path, *outputs: Path) -> None:
    """Run ``makedumpfile OPTIONS CORE OUTPUT ...``; with -F to stdout, into the only output."""
    tool = fetch_makedumpfile()
    command = [str(tool / "makedumpfile"), *options.split(), str(core)]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        output: IO[bytes] = log
        if "-F" in options.split():
            output = stack.enter_context(outputs[0].open("wb"))
        else:
            command += map(str, outputs)
        environment = {"LD_LIBRARY_PATH": str(tool)}
        done = subprocess.run(command, env=environment, stdout=output, stderr=log, check=False)
        if done.returncode:
            log.seek(0)
            raise LabError(f"{' '.join(command)}: {log.read().decode(errors='replace')[-2000:]}")


def rearrange(flattened: Path, output: Path) -> None:
    """``makedumpfile -R``: make a flattened dump one that can be read at any place."""
    tool = fetch_makedumpfile()
    with flattened.open("rb") as file:
        command = [str(tool / "makedumpfile"), "-R", str(output)]
        environment = {"LD_LIBRARY_PATH": str(tool)}
        done = subprocess.run(command, env=environment, stdin=file, capture_output=True)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-2000:]}")


def files_for_guest(machine: str) -> dict[str, Path]:
    """What ``guest_command`` needs: {path in guest: source}."""
    tool = fetch_makedumpfile(machine)
    files = {f"/bin/{path.name}": path for path in tool.iterdir()}
    return files | {f"/bin/{path.name}": path for path in C_LIBRARIES[machine]}


def headers_where_makedumpfile_looks(core: Path) -> None:
    """Move the program headers of a dump by QEMU: makedumpfile wants them behind the ELF header.

    There are section headers in that place, which nobody reads.
    """
    with core.open("r+b") as file:
        header = bytearray(file.read(_ELF_HEADER_BYTES))
        (offset,) = struct.unpack_from("<Q", header, 32)
        (count,) = struct.unpack_from("<H", header, 56)
        file.seek(offset)
        programs = file.read(count * _PROGRAM_HEADER_BYTES)
        struct.pack_into("<QQ", header, 32, _ELF_HEADER_BYTES, 0)
        struct.pack_into("<HHH", header, 58, 0, 0, 0)
        file.seek(0)
        file.write(header + programs)

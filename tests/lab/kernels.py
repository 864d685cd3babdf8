"""Debian kernels with their debug symbols, and the tools to boot them, fetched into a cache.

The cache lies outside of the repository: ``$KSM_ESTIMATOR_CACHE``, by default
``${XDG_CACHE_HOME:-~/.cache}/ksm-estimator``. An entry that exists is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SERIES = ("6.12", "6.1")
APT_DOWNLOAD = ("apt-get", "-o", "APT::Sandbox::User=root", "download")

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "gcc": "gcc",
}


class LabError(Exception):
    """The lab can't do what was asked; the message says why and what to do about it."""


@dataclass(frozen=True)
class Kernel:
    """One Debian kernel in the cache."""

    series: str  # "6.12"
    release: str  # as in uname -r
    directory: Path

    @property
    def vmlinuz(self) -> Path:
        """The image that boots."""
        return self.directory / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        """The debug symbols."""
        return self.directory / "vmlinux"

    @property
    def modules(self) -> Path:
        """The directory with all modules, compressed as in the package."""
        return self.directory / "modules"


def say(message: str) -> None:
    """Show progress."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def cache_directory() -> Path:
    """The directory of the cache, made if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("KSM_ESTIMATOR_CACHE") or Path(base) / "ksm-estimator")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``, against other processes of the lab."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_tools() -> None:
    """Install what the lab needs and the machine lacks; raise LabError if that can't be done."""
    with locked(cache_directory() / "tools.lock"):
        missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
        if not missing:
            return
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise LabError(
                f"missing: {' '.join(missing)}; run: apt-get install {' '.join(missing)}"
            )
        _update_package_lists()
        say(f"installing {' '.join(missing)}")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        _run(command, environment=environment)


def fetch_kernel(series: str) -> Kernel:
    """The newest cloud kernel of ``series`` ("6.12") with debug symbols; fetched if not cached."""
    directory = cache_directory() / f"linux-{series}"
    with locked(directory.with_suffix(".lock")):
        if not directory.exists():
            _fetch(series, directory)
    return Kernel(series, (directory / "release").read_text().strip(), directory)


def _fetch(series: str, directory: Path) -> None:
    if not shutil.which("apt-get"):
        raise LabError("kernels come as Debian packages, and there is no apt-get here")
    package, version = _newest_package(series)
    release = package.removeprefix("linux-image-")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temp:
        temporary = Path(temp)
        entry = temporary / "entry"
        entry.mkdir()
        for name in (package, f"{package}-dbg"):
            say(f"downloading {name} {version}")
            _run([*APT_DOWNLOAD, f"{name}={version}"], cwd=temporary)
        image, symbols = (
            next(temporary.glob(f"{name}_*.deb")) for name in (package, f"{package}-dbg")
        )
        say("unpacking the kernel")
        _run(["dpkg-deb", "-x", str(image), str(temporary / "image")])
        (temporary / "image" / "boot" / f"vmlinuz-{release}").rename(entry / "vmlinuz")
        (temporary / "image" / "lib" / "modules" / release).rename(entry / "modules")
        say("unpacking the debug symbols")
        _unpack_file(symbols, f"./usr/lib/debug/boot/vmlinux-{release}", entry / "vmlinux")
        (entry / "release").write_text(f"{release}\n")
        entry.rename(directory)
    say(f"{release} is ready after {time.monotonic() - started:.0f} s")


def _newest_package(series: str) -> tuple[str, str]:
    """Name and version of the newest image whose -dbg package exists with the same version."""
    found = _candidates(series)
    if not found:
        _update_package_lists()
        found = _candidates(series)
    if not found:
        raise LabError(f"no linux-image-{series}.*-cloud-amd64 with -dbg among the known packages")
    return max(found, key=lambda candidate: functools.cmp_to_key(_compare_versions)(candidate[1]))


def _candidates(series: str) -> list[tuple[str, str]]:
    pattern = rf"^linux-image-{re.escape(series)}\..*-cloud-amd64-dbg$"
    lines = _output(["apt-cache", "search", "--names-only", pattern]).splitlines()
    symbols = [line.split()[0] for line in lines]
    return [
        (name, version)
        for name in (package.removesuffix("-dbg") for package in symbols)
        for version in _versions(name) & _versions(f"{name}-dbg")
    ]


def _versions(package: str) -> set[str]:
    """The versions of ``package`` that can be downloaded."""
    lines = _output(["apt-cache", "madison", package]).splitlines()
    return {line.split("|")[1].strip() for line in lines if "Packages" in line}


def _compare_versions(left: str, right: str) -> int:
    if left == right:
        return 0
    command = ["dpkg", "--compare-versions", left, "gt", right]
    return 1 if subprocess.run(command, check=False).returncode == 0 else -1


def _update_package_lists() -> None:
    if os.geteuid() != 0:
        raise LabError("the package lists are missing or too old; run: apt-get update")
    say("updating the package lists")
    _run(["apt-get", "update", "-qq"])


def _unpack_file(package: Path, member: str, destination: Path) -> None:
    """Copy one file of a Debian package to ``destination`` without unpacking the others."""
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with destination.open("wb") as file:
        tar = ["tar", "-x", "-O", "--occurrence=1", "-f", "-", member]
        status = subprocess.run(tar, stdin=archive.stdout, stdout=file, check=False).returncode
    archive.kill()
    archive.wait()
    if status:
        raise LabError(f"{package.name} has no {member}")


def _run(
    command: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    """Run ``command`` with its output on stderr."""
    status = subprocess.run(command, cwd=cwd, env=environment, stdout=sys.stderr, check=False)
    if status.returncode:
        raise LabError(f"failed with status {status.returncode}: {' '.join(command)}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

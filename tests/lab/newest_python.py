"""Python of Debian's sid, as guests of arm64 have it, for this machine.

It compiles their modules: emulated that takes minutes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.lab.apt import Apt, unpack
from tests.lab.kernels import cache_directory, locked, say

NEWEST = "3.14"
PACKAGES = ("python3-minimal", "libpython3-stdlib")


def newest_python(directory: Path, architecture: str) -> Apt:
    """The suite that has it, for an architecture as Debian calls it; lists go to ``directory``."""
    apt = Apt.of_suite("debian", "sid", directory, architecture=architecture)
    apt.update()
    return apt


def interpreter_of(python: str) -> list[str]:
    """The command that runs ``python`` ("3.11") on this machine; empty if it can't be had."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return [sys.executable]
    found = shutil.which(f"python{python}")
    if found is not None:
        return [found]
    return _fetched() if python == NEWEST else []


def _fetched() -> list[str]:
    directory = cache_directory() / f"python{NEWEST}"
    with locked(cache_directory() / "python.lock"):
        if not directory.exists():
            say(f"downloading Python {NEWEST}")
            with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=".python.") as temp:
                _unpack(Path(temp), Path(temp) / "root")
                (Path(temp) / "root").rename(directory)
    libraries = directory / "usr/lib/x86_64-linux-gnu"
    loader = directory / "usr/lib64/ld-linux-x86-64.so.2"
    interpreter = directory / f"usr/bin/python{NEWEST}"
    return [str(loader), "--library-path", str(libraries), str(interpreter), "-E"]


def _unpack(temporary: Path, root: Path) -> None:
    debs = temporary / "debs"
    newest_python(temporary / "apt", "amd64").download_with_all(*PACKAGES, into=debs)
    for package in sorted(debs.glob("*.deb")):
        unpack(package, root)

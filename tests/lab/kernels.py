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
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from estimator.kernel.symbols import OWN
from tests.lab.apt import Apt, LabError, compare_versions, run, unpack, unpack_file
from tests.lab.source_kernel import build_from_source, missing_packages

SERIES = ("7.3", "7.2", "6.12", "6.1", "5.10")
"""All kernels of the lab, newest first."""
RECENT = SERIES[:3]
"""Those with PR_SET_MEMORY_MERGE, smart_scan and folios of any size."""
IN_FULL = ("7.3", "6.12", "6.1")
"""Those on which all tests of the reader run."""
IMAGE_ONLY = ("7.1", "7.0", "6.19")
"""Of these there are no modules either."""
WITHOUT_SYMBOLS = (*IMAGE_ONLY, "6.18", "6.17", "6.16")
"""Of these there is no package of debug symbols; on them too, prediction must equal ksmd."""
ELSEWHERE = {
    **dict.fromkeys(WITHOUT_SYMBOLS, ("debian", "trixie-backports")),
    "5.10": ("debian-security", "bullseye-security"),
    "7.2": ("debian", "sid"),
    "7.3": ("debian", "trixie-backports"),
}
"""Archive and suite of series that the machine's own suites lack."""
FROM_SOURCE = ("6.12-arm64-64k",)
"""Not to be had as packages: built from Debian's source, where they are asked for by name."""
ARM64 = (
    *("7.2-arm64", "6.12-arm64", "6.1-arm64", "5.10-arm64"),
    *("7.2-arm64-16k", "6.12-arm64-16k", *FROM_SOURCE),
)
"""For arm64, with pages of 4, 16 and 64 KiB; they run emulated."""
ARM64_SUITES = {
    "5.10": ("debian", "bullseye"),
    "6.1": ("debian", "bookworm"),
    "6.12": ("debian", "trixie"),
    "7.2": ("debian", "sid"),
}
FLAVOURS = {"": "cloud-amd64", "arm64": "cloud-arm64", "arm64-16k": "arm64-16k"}
"""What Debian calls the kernels of a series, by what follows its number."""

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "gcc": "gcc",
    "mmdebstrap": "mmdebstrap",
}
ARM64_TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}
ARM64_C_LIBRARY = Path("/usr/aarch64-linux-gnu/include/stdio.h"), "libc6-dev-arm64-cross"


@dataclass(frozen=True)
class Kernel:
    """One Debian kernel in the cache."""

    series: str  # "6.12", "6.12-arm64-16k"
    release: str  # as in uname -r
    directory: Path

    @property
    def vmlinuz(self) -> Path:
        """The image that boots."""
        return self.directory / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        """The debug symbols; OWN if there are none."""
        path = self.directory / "vmlinux"
        return path if path.exists() else OWN

    @property
    def modules(self) -> Path:
        """The directory with all modules, compressed as in the package."""
        return self.directory / "modules"

    @property
    def machine(self) -> str:
        """What it runs on, as in ``uname -m``."""
        return machine_of(self.series)

    @property
    def page_bytes(self) -> int:
        """The size of its pages."""
        return page_bytes_of(self.series)

    @property
    def busybox(self) -> Path:
        """A static busybox that runs on it."""
        found = self.directory / "busybox"
        if found.exists():
            return found
        return Path(shutil.which("busybox") or "/bin/busybox")

    @property
    def has_virtio(self) -> bool:
        """Whether it has drivers of virtio, built in or as modules."""
        return self.series in FROM_SOURCE or any(self.modules.rglob("*.ko*"))


def number_of(series: str) -> str:
    """ "6.12" of "6.12-arm64-16k"."""
    return series.partition("-")[0]


def machine_of(series: str) -> str:
    """What the kernels of ``series`` run on, as in ``uname -m``."""
    return "aarch64" if "-arm64" in series else "x86_64"


def page_bytes_of(series: str) -> int:
    """The size of the pages of kernels of ``series``."""
    return {"16k": 16384, "64k": 65536}.get(series.rpartition("-")[2], 4096)


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


def is_cached(series: str) -> bool:
    """Whether the kernel of ``series`` is there already."""
    return (cache_directory() / f"linux-{series}").exists()


def ensure_tools(machine: str = "x86_64") -> None:
    """Install what the lab needs and the machine lacks; raise LabError if that can't be done.

    ``machine``: what the guests are, as in ``uname -m``.
    """
    tools = TOOLS if machine == "x86_64" else TOOLS | ARM64_TOOLS
    with locked(cache_directory() / "tools.lock"):
        missing = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
        header, library = ARM64_C_LIBRARY
        if machine != "x86_64" and not header.exists():
            missing.append(library)
        _install(missing)


def _install(packages: Sequence[str]) -> None:
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LabError(f"missing: {names}; run: apt-get install {names}")
    Apt().update()
    say(f"installing {names}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    run(command, environment=environment)


def fetch_kernel(series: str) -> Kernel:
    """The newest cloud kernel of ``series`` ("6.12") with debug symbols; fetched if not cached.

    Of ``FROM_SOURCE`` it is built.
    """
    directory = cache_directory() / f"linux-{series}"
    with locked(directory.with_name(f"{directory.name}.lock")):
        if not directory.exists():
            _fetch(series, directory)
    return Kernel(series, (directory / "release").read_text().strip(), directory)


def _fetch(series: str, directory: Path) -> None:
    if not shutil.which("apt-get"):
        raise LabError("kernels come as Debian packages, and there is no apt-get here")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temp:
        temporary = Path(temp)
        apt = Apt()
        if machine_of(series) == "aarch64":
            suite = ARM64_SUITES[number_of(series)]
            apt = Apt.of_suite(*suite, temporary / "apt", architecture="arm64")
        elif series in ELSEWHERE:
            apt = Apt.of_suite(*ELSEWHERE[series], temporary / "apt")
        entry = temporary / "entry"
        entry.mkdir()
        if series in FROM_SOURCE:
            _install(missing_packages())
            say(f"building {series} from Debian's source, some 15 minutes")
            release = build_from_source(apt, series, temporary, entry)
        else:
            release = _unpack_newest(apt, series, temporary, entry)
        if machine_of(series) == "aarch64":
            apt.download("busybox-static", into=temporary)
            unpack(next(temporary.glob("busybox-static_*.deb")), temporary / "busybox")
            next((temporary / "busybox").glob("**/bin/busybox")).rename(entry / "busybox")
        (entry / "release").write_text(f"{release}\n")
        entry.rename(directory)
    say(f"{release} is ready after {time.monotonic() - started:.0f} s")


def _unpack_newest(apt: Apt, series: str, temporary: Path, entry: Path) -> str:
    release, symbols = _download_newest(apt, series, temporary)
    say("unpacking the kernel")
    for package in temporary.glob("*.deb"):
        if package != symbols:
            unpack(package, temporary / "image")
    modules = next((temporary / "image").glob(f"**/lib/modules/{release}"), None)
    image = temporary / "image" / "boot" / f"vmlinuz-{release}"
    if modules and not image.exists():  # since 7.2
        image = modules / "vmlinuz"
    image.rename(entry / "vmlinuz")
    if modules:
        modules.rename(entry / "modules")
    if symbols:
        _unpack_symbols(symbols, release, entry / "vmlinux")
    return release


def _unpack_symbols(package: Path, release: str, vmlinux: Path) -> None:
    say("unpacking the debug symbols")
    try:
        unpack_file(package, f"./usr/lib/debug/lib/modules/{release}/vmlinux", vmlinux)  # by 7.2
    except LabError:
        unpack_file(package, f"./usr/lib/debug/boot/vmlinux-{release}", vmlinux)


def _download_newest(apt: Apt, series: str, into: Path) -> tuple[str, Path | None]:
    """The newest kernel that all packages can be had of: its release, the package of symbols.

    Lists name packages that are not there any more, or not yet.
    """
    for release, version in _newest_first(apt, series):
        symbols = [] if series in WITHOUT_SYMBOLS else [f"linux-image-{release}-dbg"]
        try:
            for name in (*symbols, *_image_packages(apt, series, release)):
                say(f"downloading {name} {version}")
                apt.download(f"{name}={version}", into=into)
            return release, next(into.glob(f"{symbols[0]}_*.deb")) if symbols else None
        except LabError as error:
            say(str(error))
            for package in into.glob("*.deb"):
                package.unlink()
    raise LabError(f"no kernel of {series} can be downloaded")


def _newest_first(apt: Apt, series: str) -> list[tuple[str, str]]:
    """Release and version of cloud kernels; their symbols, if there are any, have the same."""
    found = _candidates(apt, series)
    if not found:
        apt.update()
        found = _candidates(apt, series)
    if not found:
        raise LabError(f"no {_pattern(series, 'linux-image-')} with -dbg among the known packages")
    version = functools.cmp_to_key(compare_versions)
    return sorted(found, key=lambda candidate: version(candidate[1]), reverse=True)


def _candidates(apt: Apt, series: str) -> list[tuple[str, str]]:
    kind = "linux-binary-" if series in IMAGE_ONLY else "linux-image-"
    pattern = _pattern(series, kind)
    if series in WITHOUT_SYMBOLS:
        images = apt.names(f"{pattern}$")
        return [(i.removeprefix(kind), v) for i in images for v in apt.versions(i)]
    return [
        (image.removeprefix("linux-image-"), version)
        for image in (symbols.removesuffix("-dbg") for symbols in apt.names(f"{pattern}-dbg$"))
        for version in apt.versions(image) & apt.versions(f"{image}-dbg")
    ]


def _pattern(series: str, kind: str) -> str:
    """Of the names of the packages of its kernels, up to the flavour."""
    number, _, built_for = series.partition("-")
    return rf"^{kind}{re.escape(number)}\.[^-]*(-[0-9]+)?-{FLAVOURS[built_for]}"


def _image_packages(apt: Apt, series: str, release: str) -> tuple[str, ...]:
    """The packages with the image and its modules: one, but for kernels since 6.19."""
    if series in IMAGE_ONLY:
        return (f"linux-binary-{release}",)
    parts = (f"linux-binary-{release}", f"linux-modules-{release}")
    return parts if apt.names(f"^{re.escape(parts[0])}$") else (f"linux-image-{release}",)

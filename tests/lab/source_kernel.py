"""A kernel that no distribution has as a package, built from Debian's source of kernels.

What it is configured with lies in ``configs/``. The build takes some 15 minutes on two CPUs, and
3 GB of the cache's disk until it is done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.lab.apt import Apt, LabError, run

CONFIGS = Path(__file__).parent / "configs"
PACKAGES = {
    **{tool: tool for tool in ("make", "flex", "bison", "bc", "gcc")},
    "xz": "xz-utils",
    "pahole": "dwarves",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}
"""What a build needs: a command, and the package that has it."""
LIBRARIES = {"/usr/include/openssl/ssl.h": "libssl-dev", "/usr/include/libelf.h": "libelf-dev"}


def missing_packages() -> list[str]:
    """What has to be installed before a kernel can be built here."""
    return [package for tool, package in PACKAGES.items() if not shutil.which(tool)] + [
        package for header, package in LIBRARIES.items() if not Path(header).exists()
    ]


def build_from_source(apt: Apt, series: str, temporary: Path, entry: Path) -> str:
    """Build the kernel of ``series`` ("6.12-arm64-64k"): its release, as in ``uname -r``.

    ``entry`` gets ``vmlinuz`` and ``vmlinux``; ``temporary`` takes 3 GB. Raises LabError.
    """
    number, _, flavour = series.partition("-")
    package = f"linux-source-{number}"
    apt.update()
    apt.download(package, into=temporary)
    source, build = temporary / "source", temporary / "build"
    source.mkdir()
    _unpack_source(next(temporary.glob(f"{package}_*.deb")), number, source)
    return make(source, build, CONFIGS / f"{flavour}.config", entry)


def make(source: Path, build: Path, config: Path, entry: Path) -> str:
    """Configure and build in the directory ``build``; the rest as for ``build_from_source``."""
    build.mkdir(exist_ok=True)
    command = ["make", "-C", str(source), f"O={build}", "ARCH=arm64"]
    command += ["CROSS_COMPILE=aarch64-linux-gnu-", "-s"]
    run([*command, "allnoconfig"], environment=os.environ | {"KCONFIG_ALLCONFIG": str(config)})
    if refused := _refused(config, build / ".config"):
        raise LabError(f"{config.name} asks for what this source refuses: {', '.join(refused)}")
    run([*command, f"-j{os.cpu_count()}", "Image"])
    shutil.copy(build / "arch/arm64/boot/Image", entry / "vmlinuz")
    shutil.copy(build / "vmlinux", entry / "vmlinux")
    return (build / "include/config/kernel.release").read_text().strip()


def _refused(asked: Path, made: Path) -> list[str]:
    """The options of ``asked`` that ``made`` has not: what they depend on is missing."""
    has = set(made.read_text().splitlines())
    options = (line for line in asked.read_text().splitlines() if line.startswith("CONFIG_"))
    return [option for option in options if option not in has]


def _unpack_source(package: Path, number: str, into: Path) -> None:
    member = f"./usr/src/linux-source-{number}.tar.xz"
    pipe = f"dpkg-deb --fsys-tarfile {package} | tar -xO {member} | tar -xJ --strip-components=1"
    command = ["bash", "-o", "pipefail", "-c", f"{pipe} -C {into}"]
    if subprocess.run(command, check=False).returncode:
        raise LabError(f"{package.name} could not be unpacked")

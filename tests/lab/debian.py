"""A Debian user space with Python and what the package needs, as a disk image in the cache.

Nothing is installed here: packages are unpacked, wheels are put beside them. The package itself
goes into the guest as a zip file, so that it is the one of this clone. Modules are compiled here: a
guest would do it at every start of Python, emulated, for most of a minute. drgn has no wheels for
arm64: for guests of that, it is Debian's package, in the one suite that has a release new enough.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from tests.lab.apt import Apt, LabError, run, unpack
from tests.lab.kernels import Kernel, cache_directory, locked, say
from tests.lab.newest_python import interpreter_of, newest_python

REPOSITORY = Path(__file__).parents[2]
PYTHON = {"x86_64": "3.11", "aarch64": "3.14"}
"""Of the guests' Debian, by what they run on."""
PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "liblzma5"),
    *("libbz2-1.0", "libssl3", "libuuid1", "libsqlite3-0", "libcrypt1"),
    *("libreadline8", "libtinfo6", "libncursesw6"),
)
PACKAGES_ARM64 = ("python3-drgn", "python3-minimal", "libpython3-stdlib")  # with what they need
SITE_PACKAGES = "usr/lib/python3/dist-packages"
MEGABYTES_FREE = 64


def debian_image(machine: str = "x86_64") -> Path:
    """An ext4 image with Python and all dependencies of the package; made if not cached.

    ``machine``: as in ``uname -m``.
    """
    needed = requirements()
    of: tuple[object, ...] = (PACKAGES, needed, "compiled")
    if machine == "aarch64":
        needed = [name for name in needed if not name.startswith("drgn")]
        of = (PACKAGES_ARM64, needed, "compiled", machine, PYTHON[machine])
    key = hashlib.sha256(repr(of).encode()).hexdigest()[:16]
    image = cache_directory() / f"debian-{key}.ext4"
    with locked(cache_directory() / "debian.lock"):
        if not image.exists():
            with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=".debian.") as temp:
                _unpack_debian(Path(temp), needed, machine)
                make_image(Path(temp) / "root", image)
    return image


def symbols_image(kernel: Kernel) -> Path:
    """An ext4 image with the ``vmlinux`` of ``kernel``; made if not cached."""
    image = cache_directory() / f"symbols-{kernel.release}.ext4"
    with locked(cache_directory() / "symbols.lock"):
        if not image.exists():
            with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=".symbols.") as temp:
                shutil.copy(kernel.vmlinux, Path(temp) / "vmlinux")
                make_image(Path(temp), image)
    return image


def package_zip(destination: Path, python: str = PYTHON["x86_64"]) -> Path:
    """The package of this clone as a zip file that ``python`` ("3.11") imports from, entry points
    included."""
    installed = importlib.metadata.distribution("ksm-estimator")
    with (
        tempfile.TemporaryDirectory(prefix="ksm-lab-package.") as temporary,
        zipfile.ZipFile(destination, "w") as archive,
    ):
        about = f"ksm_estimator-{installed.version}.dist-info"
        archive.writestr(f"{about}/METADATA", str(installed.metadata))
        archive.writestr(f"{about}/entry_points.txt", installed.read_text("entry_points.txt") or "")
        package = Path(temporary) / "estimator"
        shutil.copytree(
            REPOSITORY / "estimator", package, ignore=shutil.ignore_patterns("__pycache__")
        )
        # beside the source, where zipimport looks, which then does not ask how old that is
        compile_modules(package, python, "-b", "--invalidation-mode", "unchecked-hash")
        for path in sorted(package.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(temporary))
    return destination


def compile_modules(directory: Path, python: str, *options: str) -> None:
    """Compile what is below ``directory`` for ``python`` ("3.11"), if that can be had here.

    ``options``: of compileall. Without it guests are slower and do the same.
    """
    interpreter = interpreter_of(python)
    if interpreter:
        command = [*interpreter, "-m", "compileall", "-qq", *options, str(directory)]
        subprocess.run(command, capture_output=True, check=False)  # some is no Python: templates


def requirements() -> list[str]:
    """What the package needs, as for pip."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    dependencies: list[str] = project["dependencies"]
    return sorted(dependencies)


def _unpack_debian(directory: Path, needed: list[str], machine: str) -> None:
    say("downloading a Debian user space")
    root = directory / "root"
    for name in ("debs", "root/proc", "root/sys", "root/dev", "root/tmp", "root/symbols"):
        (directory / name).mkdir(parents=True)
    if machine == "aarch64":
        (root / "usr/lib").mkdir(parents=True)
        (root / "lib").symlink_to("usr/lib")
        newest_python(directory / "apt", "arm64").download_with_all(
            *PACKAGES_ARM64, into=directory / "debs"
        )
    else:
        Apt().download(*PACKAGES, into=directory / "debs")
    for package in sorted((directory / "debs").glob("*.deb")):
        unpack(package, root)
    pip_install(needed, root / SITE_PACKAGES, PYTHON[machine], machine)
    compile_modules(root / "usr/lib", PYTHON[machine])


def pip_install(needed: list[str], target: Path, python: str, machine: str = "x86_64") -> None:
    """Put wheels for ``python`` ("3.11") and all that they need into the directory ``target``."""
    say("downloading Python packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--target", str(target), "--python-version", python, "--no-compile"]
    pip += ["--only-binary", ":all:", "--platform", f"manylinux_2_28_{machine}"]
    run([*pip, "--platform", f"manylinux2014_{machine}", *needed])
    for tests in target.glob("*/tests"):
        shutil.rmtree(tests)


def make_image(root: Path, image: Path, megabytes_free: int = MEGABYTES_FREE) -> None:
    """Make an ext4 image of the files in ``root``."""
    say(f"making {image.name}")
    used = sum(path.lstat().st_size + 4096 for path in root.rglob("*"))
    size = used * 11 // 10 // (1 << 20) + megabytes_free
    temporary = image.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if mke2fs is None:
        raise LabError("there is no mke2fs; install e2fsprogs")
    run([mke2fs, "-q", "-t", "ext4", "-d", str(root), str(temporary), f"{size}M"])
    temporary.rename(image)

"""Debian 13 with systemd and the programs that servers run, as a disk image in the cache.

mmdebstrap installs the packages into a directory, as Debian's installer would; nothing of this
machine is in it. systemd has to be 256 or newer: before, a service with MemoryKSM= did not start.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from tests.lab.apt import MIRROR, run
from tests.lab.debian import make_image, pip_install, requirements
from tests.lab.kernels import cache_directory, locked, say

SUITE = "trixie"
PYTHON = "3.13"
PACKAGES = (
    *("systemd-sysv", "dbus", "procps", "curl", "python3"),
    *("postgresql", "redis-server", "redis-tools", "memcached", "nginx-light", "php-fpm"),
    *("gunicorn", "python3-flask", "python3-pandas", "nodejs", "openjdk-21-jre-headless"),
)
WITHOUT = ("/usr/share/doc/*", "/usr/share/locale/*")
ESTIMATOR = "opt/ksm-estimator"  # what the package needs, apart from Debian's own Python packages
MEGABYTES_FREE = 768


def user_space() -> Path:
    """An ext4 image with ``PACKAGES`` and what ksm-estimator needs; made if not cached."""
    needed = requirements()
    key = hashlib.sha256(repr((SUITE, PACKAGES, WITHOUT, needed)).encode()).hexdigest()[:16]
    image = cache_directory() / f"programs-{key}.ext4"
    with locked(cache_directory() / "programs.lock"):
        if not image.exists():
            with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=".programs.") as temp:
                root = Path(temp) / "root"
                _install(root)
                pip_install(needed, root / ESTIMATOR, PYTHON)
                make_image(root, image, MEGABYTES_FREE)
    return image


def _install(root: Path) -> None:
    say(f"installing {SUITE} with {' '.join(PACKAGES)} into an image")
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"]
    command += [f"--dpkgopt=path-exclude={path}" for path in WITHOUT]
    command += ['--aptopt=APT::Install-Recommends "false"', f"--include={','.join(PACKAGES)}"]
    run([*command, SUITE, str(root), f"{MIRROR}/debian"])

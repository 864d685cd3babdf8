"""Debug information that is missing: where it was looked for, and how to get it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from drgn import Program

from estimator.kernel.vmcoreinfo import kernel_build_id, kernel_release
from estimator.releases import distribution_of

DEBUGINFOD = "debuginfod"
_OS_RELEASE = Path("/etc/os-release")
_SERVER_OF = {
    "debian": "https://debuginfod.debian.net",
    "ubuntu": "https://debuginfod.ubuntu.com",
    "fedora": "https://debuginfod.fedoraproject.org",
    "centos": "https://debuginfod.centos.org",
    "arch": "https://debuginfod.archlinux.org",
}
_PACKAGE_OF = {
    "debian": "apt-get install linux-image-{release}-dbg",
    "ubuntu": "apt-get install ubuntu-dbgsym-keyring, add http://ddebs.ubuntu.com to the package "
    "sources, apt-get install linux-image-{release}-dbgsym",
    "fedora": "dnf debuginfo-install kernel-core-{release}",
    "centos": "dnf debuginfo-install kernel-core-{release}",
    "rhel": "dnf debuginfo-install kernel-core-{release}",
}
# where drgn looks, and what is not found by build-id alone
_USUAL_PLACES = (
    "/usr/lib/debug/boot/vmlinux-{release}",
    "/usr/lib/debug/lib/modules/{release}/vmlinux",
    "/lib/modules/{release}/build/vmlinux",
    "/lib/modules/{release}/vmlinux",
    "/boot/vmlinux-{release}",
    "/usr/lib/debug/.build-id/{first}/{rest}.debug",
)

_SAFE_RELEASE = re.compile(r"[A-Za-z0-9._+~-]+")  # what a package can be named after


def looked_for(prog: Program, symbols: Sequence[Path]) -> Iterator[str]:
    """Where a vmlinux was looked for in vain, and what was there: a sentence each."""
    build_id = kernel_build_id(prog) or "00"
    parts = {"release": kernel_release(prog), "first": build_id[:2], "rest": build_id[2:]}
    for place in symbols or [Path(place.format(**parts)) for place in _USUAL_PLACES]:
        yield f"{place} {'is there, but does not fit' if place.exists() else 'is not there'}"
    if symbols:
        return
    servers = debuginfod_servers()
    if not servers:
        yield "no debuginfod server: DEBUGINFOD_URLS is not set"
    elif DEBUGINFOD not in prog.registered_debug_info_finders():
        yield f"{' '.join(servers)} can't be asked: libdebuginfod is not installed"
    else:
        yield from (f"{server} has none, or does not answer" for server in servers)


def debuginfod_servers() -> list[str]:
    """What DEBUGINFOD_URLS names."""
    return os.environ.get("DEBUGINFOD_URLS", "").split()


def hint_here(release: str) -> str:
    """The commands that get the symbols of this machine's kernel ``release``."""
    ids = _distribution()
    name = next((name for name in ids if name in _PACKAGE_OF or name in _SERVER_OF), None)
    ways = []
    if name in _PACKAGE_OF and _SAFE_RELEASE.fullmatch(release):
        ways.append(_PACKAGE_OF[name].format(release=release))
    server = _SERVER_OF.get(name or "", "https://debuginfod.elfutils.org")
    ways.append(f"export DEBUGINFOD_URLS={server}")
    ways.append("--symbols VMLINUX if you built it yourself")
    return "; or ".join([*ways, "collect --procfs needs none"])


def hint_elsewhere(release: str) -> str:
    """What to install for the kernel ``release`` of some machine, by the form of its name.

    The name is what the dump says: one that is more than a name is put into no command.
    """
    if not _SAFE_RELEASE.fullmatch(release):
        return "get the vmlinux with debug information of that build"
    hints = {
        "debian": f"on Debian: apt-get install linux-image-{release}-dbg",
        "fedora": f"on Fedora or RHEL: dnf debuginfo-install kernel-core-{release}",
        "ubuntu": f"on Ubuntu: apt-get install linux-image-{release}-dbgsym",
        "arch": f"on Arch: export DEBUGINFOD_URLS={_SERVER_OF['arch']}",
    }
    unknown = f"get the vmlinux with debug information of {release}"
    return hints.get(distribution_of(release), unknown)


def _distribution() -> list[str]:
    """ID and ID_LIKE of os-release(5): the distribution, then those it is derived from."""
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return []
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"{pairs.get('ID', '')} {pairs.get('ID_LIKE', '')}".replace('"', "").split()

"""Debug information that is missing: where it was looked for, and how to get it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from drgn import Program

from estimator.kernel.vmcoreinfo import kernel_build_id, kernel_release

DEBUGINFOD = "debuginfod"
_OS_RELEASE = Path("/etc/os-release")
_SERVER_OF = {
    "debian": "https://debuginfod.debian.net",
    "ubuntu": "https://debuginfod.ubuntu.com",
    "fedora": "https://debuginfod.fedoraproject.org",
    "centos": "https://debuginfod.centos.org",
    "arch": "https://debuginfod.archlinux.org",
}
_OF_SUSE = "zypper --plus-content debug install kernel-{variant}-debuginfo, of version {version}"
# what a release looks like: whose kernel that is, and the command for its debug information
_PACKAGE_OF: tuple[tuple[str, str, str], ...] = (
    (
        r"(?P<version>.+)\+(?P<variant>16k|64k|rt|rt-64k)",
        "Fedora or RHEL",
        "dnf install --enablerepo='*debug*' kernel-{variant}-debuginfo-{version}",
    ),
    (
        r".+\.el\d+uek\.\w+",
        "Oracle Linux",
        "dnf install --enablerepo='*debug*' kernel-uek-debuginfo-{release}",
    ),
    (
        r".+\.(el\d|fc\d|amzn\d).*\.(x86_64|aarch64)",
        "Fedora, RHEL or Amazon Linux",
        "dnf install --enablerepo='*debug*' kernel-debuginfo-{release}",
    ),
    (
        r".+\.azl\d+",
        "Azure Linux",
        "tdnf install azurelinux-repos-debug, then tdnf install kernel-debuginfo-{release}",
    ),
    (
        r".+\.cm\d+",
        "CBL-Mariner",
        "tdnf install mariner-repos-debug, then tdnf install kernel-debuginfo-{release}",
    ),
    (r"(?P<version>[\d.]+-[\d.]+)-(?P<variant>default)", "SUSE", _OF_SUSE),
    (r"(?P<version>[\d.]+-\d+(\.\d+)+)-(?P<variant>azure|rt|64kb)", "SUSE", _OF_SUSE),
    (
        r"(6\.([5-9]|\d\d)|[7-9]\.\d+)\.\d+-\d+-pve",
        "Proxmox",
        "apt-get install proxmox-kernel-{release}-dbgsym",
    ),
    (
        r".+-\d+-(generic|lowlatency|aws|azure|gcp|gke|gkeop|ibm|intel|kvm|nvidia|oem|oracle|raspi"
        r"|realtime)(-\w+)*",
        "Ubuntu",
        "apt-get install ubuntu-dbgsym-keyring, add http://ddebs.ubuntu.com to the package "
        "sources, apt-get install linux-image-{release}-dbgsym",
    ),
    (
        r".+-(amd64|arm64|arm64-16k|686|686-pae|armmp|armmp-lpae|ppc64el|s390x|riscv64|loong64)",
        "Debian",
        "apt-get install linux-image-{release}-dbg",
    ),
    (
        r".+-(arch|zen|hardened|lts)\d*-\d+|.+-\d+-(lts|zen|hardened)",
        "Arch",
        "export DEBUGINFOD_URLS=https://debuginfod.archlinux.org",
    ),
)
# where drgn looks, and what is not found by build-id alone
_USUAL_PLACES = (
    "/usr/lib/debug/boot/vmlinux-{release}",
    "/usr/lib/debug/lib/modules/{release}/vmlinux",
    "/lib/modules/{release}/build/vmlinux",
    "/lib/modules/{release}/vmlinux",
    "/boot/vmlinux-{release}",
    "/usr/lib/debug/.build-id/{first}/{rest}.debug",
)

_SAFE_RELEASE = re.compile(r"[A-Za-z0-9._+~-]+")  # what a command can name


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
    name = next((name for name in _distribution() if name in _SERVER_OF), "")
    server = _SERVER_OF.get(name, "https://debuginfod.elfutils.org")
    package = _package_of(release)
    ways = [
        *([package[1]] if package else []),
        f"export DEBUGINFOD_URLS={server}",
        "--symbols VMLINUX if you built it yourself",
        "collect --procfs needs none",
    ]
    return "; or ".join(dict.fromkeys(ways))


def hint_elsewhere(release: str) -> str:
    """What to install for the kernel ``release`` of some machine, by the form of its name.

    The name is what the dump says: one that is more than a name is put into no command, and one of
    a form that is not known gets none.
    """
    if not _SAFE_RELEASE.fullmatch(release):
        return "get the vmlinux with debug information of that build"
    package = _package_of(release)
    if package:
        return f"on {package[0]}: {package[1]}"
    return f"get the vmlinux with debug information of {release}"


def _package_of(release: str) -> tuple[str, str] | None:
    """Whose kernel ``release`` is, and what to type for it; None if that is not known."""
    if not _SAFE_RELEASE.fullmatch(release):
        return None
    for pattern, name, command in _PACKAGE_OF:
        found = re.fullmatch(pattern, release)
        if found:
            return name, command.format(release=release, **found.groupdict())
    return None


def _distribution() -> list[str]:
    """ID and ID_LIKE of os-release(5): the distribution, then those it is derived from."""
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return []
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"{pairs.get('ID', '')} {pairs.get('ID_LIKE', '')}".replace('"', "").split()

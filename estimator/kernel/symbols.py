"""Where a kernel's debug information comes from: commands to type."""

from __future__ import annotations

from pathlib import Path

_OS_RELEASE = Path("/etc/os-release")
_SERVERS = {
    "debian": "https://debuginfod.debian.net",
    "ubuntu": "https://debuginfod.ubuntu.com",
    "fedora": "https://debuginfod.fedoraproject.org",
    "centos": "https://debuginfod.centos.org",
    "arch": "https://debuginfod.archlinux.org",
}
_PACKAGES = {
    "debian": "apt-get install linux-image-{release}-dbg",
    "ubuntu": "apt-get install ubuntu-dbgsym-keyring, add http://ddebs.ubuntu.com to the package "
    "sources, apt-get install linux-image-{release}-dbgsym",
    "fedora": "dnf debuginfo-install kernel-core-{release}",
    "centos": "dnf debuginfo-install kernel-core-{release}",
    "rhel": "dnf debuginfo-install kernel-core-{release}",
}


def hint_here(release: str) -> str:
    """The commands that get the symbols of this machine's kernel ``release``."""
    ids = _distribution()
    name = next((name for name in ids if name in _PACKAGES or name in _SERVERS), None)
    ways = []
    if name in _PACKAGES:
        ways.append(_PACKAGES[name].format(release=release))
    server = _SERVERS.get(name or "", "https://debuginfod.elfutils.org")
    ways.append(f"export DEBUGINFOD_URLS={server}")
    ways.append("--symbols VMLINUX if you built it yourself")
    return "; or ".join([*ways, "collect --procfs needs none"])


def hint_elsewhere(release: str) -> str:
    """What to install for the kernel ``release`` of some machine, by the form of its name."""
    if "amd64" in release or "deb" in release:
        return f"on Debian: apt-get install linux-image-{release}-dbg"
    if ".el" in release or ".fc" in release:
        return f"on Fedora or RHEL: dnf debuginfo-install kernel-core-{release}"
    if release.endswith(("-generic", "-aws", "-azure", "-gcp")):
        return f"on Ubuntu: apt-get install linux-image-{release}-dbgsym"
    if "-arch" in release:
        return f"on Arch: export DEBUGINFOD_URLS={_SERVERS['arch']}"
    return f"get the vmlinux with debug information of {release}"


def _distribution() -> list[str]:
    """ID and ID_LIKE of os-release(5): the distribution, then those it is derived from."""
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return []
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"{pairs.get('ID', '')} {pairs.get('ID_LIKE', '')}".replace('"', "").split()

"""What the name of a kernel's release tells: whose it is, its symbols, and how it makes a dump."""

from __future__ import annotations

import re
from dataclasses import dataclass

_KDUMP_CONF = "in /etc/kdump.conf: core_collector makedumpfile -l --message-level 7 -d 23"
_KDUMP_TOOLS = 'in /etc/default/kdump-tools: MAKEDUMP_ARGS="-c -d 23"'
_SYSCONFIG = "in /etc/sysconfig/kdump: KDUMP_DUMPLEVEL=23"
_RPM = "dnf install --enablerepo='*debug*'"
_SUSE = "zypper --plus-content debug install kernel-{variant}-debuginfo, of version {version}"
_DDEBS = (
    "apt-get install ubuntu-dbgsym-keyring, add http://ddebs.ubuntu.com to the package sources, "
    "apt-get install"
)
_SAFE = re.compile(r"[A-Za-z0-9._+~-]+")  # what a command can name


@dataclass(frozen=True)
class Vendor:
    """``symbols``: what to type for debug information. ``dumps``: the line of its kdump, or ""."""

    name: str
    symbols: str
    dumps: str


_VENDORS: tuple[tuple[str, Vendor], ...] = (
    (
        r"(?P<version>.+)\+(?P<variant>16k|64k|rt|rt-64k)",
        Vendor("Fedora or RHEL", f"{_RPM} kernel-{{variant}}-debuginfo-{{version}}", _KDUMP_CONF),
    ),
    (
        r".+\.el\d+uek\.\w+",
        Vendor("Oracle Linux", f"{_RPM} kernel-uek-debuginfo-{{release}}", _KDUMP_CONF),
    ),
    (
        r".+\.(el\d|fc\d|amzn\d).*\.(x86_64|aarch64)",
        Vendor("Fedora, RHEL or Amazon Linux", f"{_RPM} kernel-debuginfo-{{release}}", _KDUMP_CONF),
    ),
    (
        r".+\.azl\d+",
        Vendor(
            "Azure Linux",
            "tdnf install azurelinux-repos-debug, then tdnf install kernel-debuginfo-{release}",
            "",
        ),
    ),
    (
        r".+\.cm\d+",
        Vendor(
            "CBL-Mariner",
            "tdnf install mariner-repos-debug, then tdnf install kernel-debuginfo-{release}",
            "",
        ),
    ),
    (
        r"(?P<version>[\d.]+-[\d.]+)-(?P<variant>default)",
        Vendor("SUSE", _SUSE, _SYSCONFIG),
    ),
    (
        r"(?P<version>[\d.]+-\d+(\.\d+)+)-(?P<variant>azure|rt|64kb)",
        Vendor("SUSE", _SUSE, _SYSCONFIG),
    ),
    (
        r"(6\.([5-9]|\d\d)|[7-9]\.\d+)\.\d+-\d+-pve",
        Vendor("Proxmox", "apt-get install proxmox-kernel-{release}-dbgsym", _KDUMP_TOOLS),
    ),
    (
        r".+-\d+-(generic|lowlatency|aws|azure|gcp|gke|gkeop|ibm|intel|kvm|nvidia|oem|oracle|raspi"
        r"|realtime)(-\w+)*",
        Vendor("Ubuntu", f"{_DDEBS} linux-image-{{release}}-dbgsym", _KDUMP_TOOLS),
    ),
    (
        r".+-(amd64|arm64|arm64-16k|686|686-pae|armmp|armmp-lpae|ppc64el|s390x|riscv64|loong64)",
        Vendor("Debian", "apt-get install linux-image-{release}-dbg", _KDUMP_TOOLS),
    ),
    (
        r".+-(arch|zen|hardened|lts)\d*-\d+|.+-\d+-(lts|zen|hardened)",
        Vendor("Arch", "export DEBUGINFOD_URLS=https://debuginfod.archlinux.org", ""),
    ),
)


def is_release(text: str) -> bool:
    """Whether ``text``, which a dump says, is no more than a name: fit for a command."""
    return _SAFE.fullmatch(text) is not None


def vendor_of(release: str) -> Vendor | None:
    """Whose kernel ``release`` is by its form; None where that is not known.

    >>> vendor_of("6.12.43+deb13-amd64").symbols
    'apt-get install linux-image-6.12.43+deb13-amd64-dbg'
    """
    if not is_release(release):
        return None
    for pattern, vendor in _VENDORS:
        found = re.fullmatch(pattern, release)
        if found:
            symbols = vendor.symbols.format(release=release, **found.groupdict())
            return Vendor(vendor.name, symbols, vendor.dumps)
    return None


def better_dump(release: str) -> str:
    """How to make a dump with user pages, and the line that makes the next crash leave one.

    Zero pages, page cache and free pages may be left out, user pages (8) may not.
    """
    vendor = vendor_of(release)
    line = vendor.dumps if vendor else ""
    line = line or f"{_KDUMP_CONF}, or {_KDUMP_TOOLS}"
    return f"make one with: makedumpfile -l -d 23 /proc/vmcore vmcore ({line})"

"""Debug information that is missing: where it was looked for, and how to get it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from drgn import Program

from estimator.kernel.vmcoreinfo import kernel_build_id, kernel_release
from estimator.releases import is_release, vendor_of

DEBUGINFOD = "debuginfod"
_OS_RELEASE = Path("/etc/os-release")
_SERVER_OF = {
    "debian": "https://debuginfod.debian.net",
    "ubuntu": "https://debuginfod.ubuntu.com",
    "fedora": "https://debuginfod.fedoraproject.org",
    "centos": "https://debuginfod.centos.org",
    "arch": "https://debuginfod.archlinux.org",
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
    vendor = vendor_of(release)
    ways = [
        *([vendor.symbols] if vendor else []),
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
    vendor = vendor_of(release)
    if vendor:
        return f"on {vendor.name}: {vendor.symbols}"
    of = release if is_release(release) else "that build"
    return f"get the vmlinux with debug information of {of}"


def _distribution() -> list[str]:
    """ID and ID_LIKE of os-release(5): the distribution, then those it is derived from."""
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return []
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"{pairs.get('ID', '')} {pairs.get('ID_LIKE', '')}".replace('"', "").split()

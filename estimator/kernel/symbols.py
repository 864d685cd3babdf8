"""The kernel's vmlinux with debug information: named, found by build-id, or what to install."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from drgn import FaultError, MissingDebugInfoError, ModuleFileStatus, Program

from estimator.collect.limits import own_limits
from estimator.errors import NoDebugInfoError, TargetError

_DEBUGINFOD = "debuginfod"
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


def kernel_release(prog: Program) -> str:
    """The ``uname -r`` of the kernel, from VMCOREINFO: needs no symbols."""
    return prog["UTS_RELEASE"].string_().decode(errors="replace")


def kernel_build_id(prog: Program) -> str | None:
    """Of the kernel, from VMCOREINFO (5.9+): needs no symbols."""
    found = re.search(rb"^BUILD-ID=([0-9a-f]+)$", prog["VMCOREINFO"].string_(), re.MULTILINE)
    return found[1].decode() if found else None


def load_symbols(prog: Program, symbols: Sequence[Path]) -> None:
    """Load the kernel's debug information from ``symbols``, else from where drgn looks.

    That is, by build-id: the usual places, then the debuginfod servers that the user's environment
    names. Raises NoDebugInfoError with the kernel's release and what to install, TargetError for a
    damaged dump, ResourceError where this machine lacks memory or files.
    """
    release = kernel_release(prog)
    missing = [path for path in symbols if not path.is_file()]
    if missing:
        raise NoDebugInfoError(f"symbols {missing[0]} do not exist")
    try:
        with own_limits():
            _load(prog, symbols)
    except FaultError as error:
        raise TargetError(
            f"the dump is damaged or cut off (the kernel's own data can't be read: {error})"
        ) from error
    except (MissingDebugInfoError, ValueError, OSError) as error:
        if symbols:
            raise NoDebugInfoError(f"{symbols[0]} can't be used as symbols: {error}") from error
    main = prog.main_module()
    if main.debug_file_status != ModuleFileStatus.HAVE:
        build_id = main.build_id.hex() if main.build_id else "unknown"
        if symbols:
            raise NoDebugInfoError(
                f"{symbols[0]} is not the vmlinux of this kernel, {release} (build-id {build_id})",
                hint=hint_elsewhere(release),
            )
        raise NoDebugInfoError(
            f"no debug information found for kernel {release} (build-id {build_id})",
            hint=f"{hint_elsewhere(release)}, or name the file with --symbols VMLINUX, "
            "or a server with export DEBUGINFOD_URLS=...",
        )
    path = main.debug_file_path
    if main.build_id and not _is_of_build(path, main.build_id):
        raise NoDebugInfoError(
            f"{path} was found by build-id {main.build_id.hex()}, but is of another",
            hint=f"remove it; {hint_elsewhere(release)}, or name the file with --symbols VMLINUX",
        )


def _load(prog: Program, symbols: Sequence[Path]) -> None:
    """Let drgn load them. MemoryError and OSError are our own limits.

    drgn goes on without a file that it can't open, and has no class for what libelf says.
    """
    try:
        if symbols:
            prog.load_debug_info(symbols)
        else:
            _ask_debuginfod(prog)
            prog.load_debug_info(main=True)
    except Exception as error:
        if "out of memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
    finally:
        with open(os.devnull, "rb"):
            pass


def looked_for(prog: Program, symbols: Sequence[Path]) -> Iterator[str]:
    """Where a vmlinux was looked for in vain, and what was there: a sentence each."""
    build_id = kernel_build_id(prog) or "00"
    parts = {"release": kernel_release(prog), "first": build_id[:2], "rest": build_id[2:]}
    for place in symbols or [Path(place.format(**parts)) for place in _USUAL_PLACES]:
        yield f"{place} {'is there, but does not fit' if place.exists() else 'is not there'}"
    if symbols:
        return
    servers = _servers()
    if not servers:
        yield "no debuginfod server: DEBUGINFOD_URLS is not set"
    elif _DEBUGINFOD not in prog.registered_debug_info_finders():
        yield f"{' '.join(servers)} can't be asked: libdebuginfod is not installed"
    else:
        yield from (f"{server} has none, or does not answer" for server in servers)


def _servers() -> list[str]:
    return os.environ.get("DEBUGINFOD_URLS", "").split()


def _ask_debuginfod(prog: Program) -> None:
    """Let drgn ask the servers that the user named.

    By itself it does so only for Fedora's kernels, since others are slow to download.
    """
    enabled = prog.enabled_debug_info_finders()
    known = _DEBUGINFOD in prog.registered_debug_info_finders()
    if _servers() and known and _DEBUGINFOD not in enabled:
        prog.set_enabled_debug_info_finders([*enabled, _DEBUGINFOD])


def _is_of_build(path: str | None, build_id: bytes) -> bool:
    """Whether ``path`` has that build-id; drgn trusts servers, and paths that say it."""
    module = Program().extra_module("vmlinux", create=True)
    module.build_id = build_id
    if path is not None:
        module.try_file(path)
    return module.debug_file_status == ModuleFileStatus.HAVE


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
    if "amd64" in release or "deb" in release:
        return f"on Debian: apt-get install linux-image-{release}-dbg"
    if ".el" in release or ".fc" in release:
        return f"on Fedora or RHEL: dnf debuginfo-install kernel-core-{release}"
    if release.endswith(("-generic", "-aws", "-azure", "-gcp")):
        return f"on Ubuntu: apt-get install linux-image-{release}-dbgsym"
    if "-arch" in release:
        return f"on Arch: export DEBUGINFOD_URLS={_SERVER_OF['arch']}"
    return f"get the vmlinux with debug information of {release}"


def _distribution() -> list[str]:
    """ID and ID_LIKE of os-release(5): the distribution, then those it is derived from."""
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return []
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"{pairs.get('ID', '')} {pairs.get('ID_LIKE', '')}".replace('"', "").split()

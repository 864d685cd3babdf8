"""What a running system allows: seconds, nothing is hashed but a sample."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from estimator.check import Findings
from estimator.errors import NoDebugInfoError, TargetError
from estimator.kernel.check_core import ask_memory
from estimator.kernel.running import kcore_refused, lockdown, open_live, open_qemu
from estimator.kernel.symbols import kernel_release
from estimator.kernel.target import Target, require_ksm

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


def check_live(symbols: Sequence[Path]) -> Findings:
    """Findings on this machine's kernel. Raises nothing."""
    findings = Findings()
    release = platform.release()
    findings.add("kernel", release, release=release)
    if findings.ask("rights", lambda: _rights(findings)) is None:
        return findings
    target = findings.ask("symbols", lambda: _open(symbols, release, findings))
    if target is not None:
        findings.ask("memory", lambda: ask_memory(target, findings))
    return findings


def check_qemu(address: str, symbols: Sequence[Path]) -> Findings:
    """Findings on the guest behind the monitor at ``address``. Raises nothing."""
    findings = Findings()
    target = findings.ask("guest", lambda: _guest(address, symbols, findings))
    if target is not None:
        findings.ask("memory", lambda: ask_memory(target, findings))
    return findings


def _guest(address: str, symbols: Sequence[Path], findings: Findings) -> Target:
    target = open_qemu(address, symbols)
    findings.add("guest", f"{kernel_release(target.prog)} behind {address}")
    for warning in target.warnings:
        findings.add("guest", warning, status="warn")
    require_ksm(target.prog)
    return target


def _rights(findings: Findings) -> bool:
    if os.geteuid() != 0:
        raise TargetError("reading the running kernel needs root", hint="try: sudo")
    refused = kcore_refused()
    if refused:
        raise TargetError(refused)
    mode = lockdown()
    findings.add("rights", f"root, /proc/kcore can be read, lockdown: {mode or 'not in use'}")
    return True


def _open(symbols: Sequence[Path], release: str, findings: Findings) -> Target:
    try:
        target = open_live(symbols)
    except NoDebugInfoError as error:
        if symbols:
            raise
        raise NoDebugInfoError(error.message, hint=symbols_hint(release)) from error
    findings.add("symbols", f"{target.prog.main_module().debug_file_path} fits")
    require_ksm(target.prog)
    return target


def symbols_hint(release: str) -> str:
    """The commands that get the symbols of kernel ``release`` on this distribution."""
    ids = _distribution()
    name = next((name for name in ids if name in _PACKAGES or name in _SERVERS), None)
    ways = []
    if name in _PACKAGES:
        ways.append(_PACKAGES[name].format(release=release))
    server = _SERVERS.get(name or "", "https://debuginfod.elfutils.org")
    ways.append(f"export DEBUGINFOD_URLS={server}")
    ways.append("--symbols VMLINUX if you built it yourself")
    return "; or ".join([*ways, "collect --procfs needs none"])


def _distribution() -> list[str]:
    """ID and ID_LIKE of os-release(5): the distribution, then those it is derived from."""
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return []
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"{pairs.get('ID', '')} {pairs.get('ID_LIKE', '')}".replace('"', "").split()

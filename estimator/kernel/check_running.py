"""What a running system allows: seconds, nothing is hashed but a sample."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from estimator.collect.findings import Findings
from estimator.errors import AS_ROOT, TargetError
from estimator.kernel.check_core import ask_memory
from estimator.kernel.requirements import require_ksm
from estimator.kernel.running import kcore_refused, lockdown, open_live, open_qemu
from estimator.kernel.symbols import say_symbols
from estimator.kernel.target import Target
from estimator.kernel.vmcoreinfo import kernel_release


def check_live(symbols: Sequence[Path], without_contents: bool = False) -> Findings:
    """Findings on this machine's kernel; a failure is one too: no EstimatorError is raised."""
    findings = Findings()
    release = platform.release()
    findings.add("kernel", release, release=release)
    if findings.ask("rights", lambda: _rights(findings)) is None:
        return findings
    target = findings.ask("symbols", lambda: _open(symbols, findings))
    if target is not None:
        with target:
            findings.ask("memory", lambda: ask_memory(target, findings, without_contents))
    return findings


def check_qemu(address: str, symbols: Sequence[Path], without_contents: bool = False) -> Findings:
    """Findings on the guest behind the monitor at ``address``.

    A failure is a finding too: EstimatorErrors are not raised.
    """
    findings = Findings()
    target = findings.ask("guest", lambda: _guest(address, symbols, findings))
    if target is not None:
        with target:
            findings.ask("memory", lambda: ask_memory(target, findings, without_contents))
    return findings


def _guest(address: str, symbols: Sequence[Path], findings: Findings) -> Target:
    target = open_qemu(address, symbols)
    findings.add("guest", f"{kernel_release(target.prog)} behind {address}")
    findings.add("symbols", say_symbols(target.prog))
    for warning in target.warnings:
        findings.add("guest", warning, status="warn")
    require_ksm(target.prog)
    return target


def _rights(findings: Findings) -> bool:
    if os.geteuid() != 0:
        raise TargetError("reading the running kernel needs root", hint=AS_ROOT)
    refused = kcore_refused()
    if refused:
        raise TargetError(refused)
    mode = lockdown()
    findings.add("rights", f"root, /proc/kcore can be read, lockdown: {mode or 'not in use'}")
    return True


def _open(symbols: Sequence[Path], findings: Findings) -> Target:
    target = open_live(symbols)
    findings.add("symbols", say_symbols(target.prog))
    require_ksm(target.prog)
    return target

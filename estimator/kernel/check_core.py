"""What a crash dump allows: seconds, nothing is hashed but a sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from drgn import Program

from estimator.arrays import Bytes
from estimator.collect.findings import UPPER_BOUND_ONLY, Findings
from estimator.collect.mappings import distinct_of
from estimator.collect.start_up import seconds_since_start
from estimator.errors import CannotAnswerError, NoDebugInfoError
from estimator.kernel.address_spaces import AddressSpaces
from estimator.kernel.core import (
    dump_warnings,
    load_symbols_of,
    open_program,
    with_memory,
)
from estimator.kernel.dump.file import DumpFile
from estimator.kernel.dump.split import inspect_dump, refuse_missing_parts
from estimator.kernel.failures import reading
from estimator.kernel.ksm_settings import read_settings
from estimator.kernel.page_array import PageArray
from estimator.kernel.page_contents import leave_unread, read_frames
from estimator.kernel.processes import Mms, read_processes
from estimator.kernel.requirements import require_ksm
from estimator.kernel.symbol_hints import looked_for
from estimator.kernel.symbols import say_symbols
from estimator.kernel.target import Target
from estimator.kernel.user_pages import (
    refuse_without_user_pages,
    require_mappings,
    why_unknown,
)
from estimator.kernel.vmas import Vmas, read_vmas, vm_flag_values
from estimator.kernel.vmcoreinfo import kernel_build_id, kernel_release
from estimator.releases import better_dump
from estimator.snapshot.flags import Unknown
from estimator.units import human_bytes, percent, plural

_MIB = 1 << 20
_SAMPLE_FRAMES = 1 << 16
_TIMED_FRAMES = 4096
_GOOD_COVERAGE, _ANSWERABLE = 0.95, 0.5
_LEVEL_BITS = {1: "zero", 2: "cache", 4: "cache private", 8: "user", 16: "free"}


def check_core(
    paths: Sequence[Path],
    symbols: Sequence[Path],
    architecture: str | None = None,
    without_contents: bool = False,
) -> Findings:
    """Findings on the dump in ``paths``, with the arguments of ``open_core`` and ``collect``.

    A failure is a finding too: EstimatorErrors are not raised.
    """
    findings = Findings()
    dump = findings.ask("dump", lambda: _dump(paths, findings))
    if dump is None:
        return findings
    opened = findings.ask("kernel", lambda: _kernel(dump, architecture, findings))
    if opened is None:
        return findings
    prog, dump = opened
    target = findings.ask("symbols", lambda: _symbols(dump, prog, symbols, findings))
    if target is not None:
        with target:
            findings.ask("memory", lambda: ask_memory(target, findings, without_contents))
    return findings


def _dump(paths: Sequence[Path], findings: Findings) -> DumpFile:
    dump = inspect_dump(paths)
    kind, header = dump.format, dump.kdump
    if header is not None:
        kind += f", compressed with {header.compression}"
    if len(dump.parts) > 1:
        kind += f", in {len(dump.parts)} files"
    size = f"{dump.size_bytes / _MIB:,.0f} MiB"
    findings.add("dump", f"{kind}, {size}", format=dump.format, size_bytes=dump.size_bytes)
    for warning in dump_warnings(dump):
        findings.add("whole", warning, status="warn", hint="copy it again, or dump again")
    if header is not None:
        out = [name for bit, name in _LEVEL_BITS.items() if header.level & bit]
        text = f"{header.level}: without {', '.join(out)} pages" if out else "0: all pages"
        findings.add("dump level", text, dump_level=header.level)
    elif not dump.memory_only:
        left_out = int((dump.loads["memsz"] - dump.loads["filesz"]).sum())
        text = f"{left_out / _MIB:,.0f} MiB of memory are left out" if left_out else "all pages"
        findings.add("dump level", text, left_out_bytes=left_out)
    refuse_missing_parts(dump)
    return dump


def _kernel(
    dump: DumpFile, architecture: str | None, findings: Findings
) -> tuple[Program, DumpFile]:
    prog, found = open_program(dump, architecture)
    release, build_id = kernel_release(prog), kernel_build_id(prog)
    findings.add(
        "kernel", f"{release}, build-id {build_id or 'unknown'}", release=release, build_id=build_id
    )
    for warning in dump_warnings(found)[len(dump_warnings(dump)) :]:
        findings.add("kernel", warning, status="warn")
    return prog, found


def _symbols(dump: DumpFile, prog: Program, symbols: Sequence[Path], findings: Findings) -> Target:
    try:
        load_symbols_of(dump, prog, symbols)
    except NoDebugInfoError:
        for text in looked_for(prog, symbols):
            findings.add("looked for", text, status="warn")
        raise
    target = with_memory(prog, dump)
    findings.add("symbols", say_symbols(prog))
    require_ksm(prog)
    return target


def ask_memory(target: Target, findings: Findings, without_contents: bool = False) -> None:
    """How much anonymous memory there is, how much of it can be read, and how long it takes."""
    with reading(target.prog, target.damage):
        _anonymous_memory(target, findings, without_contents)


def _anonymous_memory(target: Target, findings: Findings, without_contents: bool) -> None:
    """Walk the page tables; judge coverage and time by samples."""
    start_up, started = seconds_since_start(), time.monotonic()
    prog, memory = target.prog, target.memory
    mms = read_processes(prog, memory)
    vmas = read_vmas(prog, memory, mms)
    mapped = AddressSpaces(prog, memory, mms, vmas).walk(lambda batches: None)
    pfns = distinct_of(mapped.pfn)[:]
    require_mappings(target, pfns, vmas.unreadable)
    sample = pfns[:: len(pfns) // _SAMPLE_FRAMES + 1]
    pages = PageArray(prog, memory)
    info = pages.read(sample)
    anonymous = sample[info.ok & info.anonymous]
    frames = round(len(pfns) * len(anonymous) / max(len(sample), 1))
    anonymous_bytes = frames * memory.page_bytes
    processes = plural(len(mms.structs), "process")
    findings.add(
        "memory",
        f"{processes}, {human_bytes(anonymous_bytes)} of anonymous memory",
        processes=len(mms.structs),
        anonymous_bytes=anonymous_bytes,
    )
    _opt_ins(prog, mms, vmas, findings)
    walk_seconds = time.monotonic() - started
    unknown = why_unknown(target, anonymous)
    readable = int(np.count_nonzero(unknown == Unknown.HASHED))
    share = readable / len(unknown) if len(unknown) else 0.0
    _coverage(target, unknown, share, findings, without_contents)
    piece = pfns[len(pfns) // 2 :][:_TIMED_FRAMES]
    started = time.monotonic()
    if without_contents:
        leave_unread(pages, memory, piece)
    else:
        read_frames(pages, memory, piece, 0, target.running)
    read_seconds = (time.monotonic() - started) * len(pfns) / max(len(piece), 1)
    findings.add_time(start_up, walk_seconds + read_seconds, "one core")


def _coverage(
    target: Target, unknown: Bytes, share: float, findings: Findings, without_contents: bool
) -> None:
    """Judge ``share``, the part that can be read of a sample with the codes ``unknown``."""
    text = f"{percent(share, 1)} of it can be read"
    if without_contents:
        text += f"; {UPPER_BOUND_ONLY}"
    elif share < _ANSWERABLE:
        refuse_without_user_pages(target, unknown)
        raise CannotAnswerError(text, hint=better_dump(kernel_release(target.prog)))
    status = "ok" if share >= _GOOD_COVERAGE and not without_contents else "warn"
    findings.add("coverage", text, status=status, coverage=share)


def _opt_ins(prog: Program, mms: Mms, vmas: Vmas, findings: Findings) -> None:
    """Whether ksmd runs, and who has opted in."""
    processes = int(np.ma.filled(mms.columns["merge_any"], False).sum()) if mms.columns else 0
    mergeable = np.uint64(vm_flag_values(prog)["mergeable"])
    areas = int(np.count_nonzero(vmas.flags & mergeable))
    findings.add_ksm(
        read_settings(prog),
        f"{plural(processes, 'process')} by prctl, {plural(areas, 'mergeable VMA')}",
        prctl_processes=processes,
        mergeable_vmas=areas,
    )

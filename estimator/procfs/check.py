"""What /proc of this machine allows: seconds, nothing is hashed."""

from __future__ import annotations

import dataclasses
import itertools
import platform

import numpy as np

from estimator.arrays import Columns, Words
from estimator.collect.budget import refuse_beyond
from estimator.collect.findings import UPPER_BOUND_ONLY, Findings
from estimator.collect.memory_room import meminfo_bytes
from estimator.collect.start_up import seconds_since_start
from estimator.procfs.ksm_settings import read_settings
from estimator.procfs.merged_frames import ksm_flag_holds
from estimator.procfs.page_contents import workers_here
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.processes import read_processes
from estimator.procfs.rights import memory_denied, part_of_host, require_memory, require_rights
from estimator.procfs.vmas import read_vmas
from estimator.units import plural

_GIB = 1 << 30
_BYTES_PER_SECOND = 1.3e9  # of each worker, as scripts/bench procfs measures it


def check_procfs(without_contents: bool = False) -> Findings:
    """Findings on this machine without its kernel's memory.

    A failure is one too: no EstimatorError is raised.
    """
    findings = Findings()
    release = platform.release()
    findings.add("kernel", release, release=release)
    if findings.ask("rights", lambda: _rights(findings)) is None:
        return findings
    ksm = read_settings()
    part = part_of_host()
    if part:
        findings.add(
            "container",
            str(part),
            status="warn",
            hint="run it on the host, or in a container with --pid=host",
            **dataclasses.asdict(part),
        )
    found = findings.ask("processes", lambda: _processes(findings))
    if found is None:
        return findings
    vmas, smaps = found
    mergeable = int(np.count_nonzero(vmas["mergeable"]))
    opted_in = len(np.unique(vmas["mm_id"][vmas["mergeable"]]))
    findings.add_ksm(
        ksm,
        f"{plural(opted_in, 'process')} with {plural(mergeable, 'mergeable VMA')}",
        mergeable_processes=opted_in,
        mergeable_vmas=mergeable,
    )
    if ksm["counters"].get("pages_sharing") and not ksm_flag_holds():
        findings.add(
            "KSM pages",
            "this kernel marks every anonymous page as KSM's; smaps counts them, which may leave "
            "some open",
            status="warn",
            hint="--live sees them all",
        )
    mapped = int(smaps["Anonymous"].sum())
    anonymous = min(meminfo_bytes("AnonPages") or 0, mapped * PAGE_BYTES)
    size = f"{anonymous / _GIB:.1f} GiB" if anonymous >= _GIB / 10 else f"{anonymous >> 20} MiB"
    findings.add("memory", f"{size} of anonymous memory", anonymous_bytes=anonymous)
    if findings.ask("room", lambda: _room(mapped)) is None:
        return findings
    if without_contents:
        findings.add("coverage", UPPER_BOUND_ONLY, status="warn")
    cores = workers_here()
    read = 0 if without_contents else anonymous
    start_up = seconds_since_start()  # processes and smaps are read already, as they will be
    findings.add_time(start_up, read / _BYTES_PER_SECOND / cores, f"{cores} of the cores")
    return findings


def _rights(findings: Findings) -> bool:
    require_rights()
    findings.add("rights", "root, PFNs can be seen")
    return True


def _processes(findings: Findings) -> tuple[Columns, dict[str, Words]]:
    """VMAs and their numbers of smaps; notes the processes whose memory may not be read."""
    processes, _ = read_processes()
    vmas, smaps, known = read_vmas(processes, 1)
    unread = list(itertools.compress(processes, ~known))
    if not known.any():
        require_memory(unread)
    denied = sum(map(memory_denied, unread))
    if denied:
        findings.add(
            "processes",
            f"the memory of {denied} of {len(processes)} may not be read: permission "
            "denied, as by a security module",
            status="warn",
            denied_processes=denied,
        )
    return vmas, smaps


def _room(mapped_pages: int) -> bool:
    refuse_beyond(None, mapped_pages, running=True)
    return True

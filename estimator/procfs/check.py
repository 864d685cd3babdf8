"""What /proc of this machine allows: seconds, nothing is hashed."""

from __future__ import annotations

import platform
from pathlib import Path

from estimator.collect.findings import UPPER_BOUND_ONLY, Findings
from estimator.procfs.collect import require_rights
from estimator.procfs.ksm_settings import read_settings
from estimator.procfs.merged_frames import ksm_flag_holds
from estimator.procfs.page_contents import workers_here
from estimator.procfs.processes import read_processes
from estimator.procfs.vmas import read_vmas

_MEMINFO = Path("/proc/meminfo")
_GIB = 1 << 30
_START_UP_SECONDS = 0.5
_BYTES_PER_SECOND = 1.3e9  # of each worker, as scripts/bench procfs measures it


def check_procfs(without_contents: bool = False) -> Findings:
    """Findings on this machine without its kernel's memory.

    A failure of ``require_rights`` or ``read_processes`` is a finding too, and not raised.
    """
    findings = Findings()
    release = platform.release()
    findings.add("kernel", release, release=release)
    if findings.ask("rights", lambda: _rights(findings)) is None:
        return findings
    ksm = read_settings()
    found = findings.ask("processes", read_processes)
    if found is None:
        return findings
    vmas, _, _ = read_vmas(found[0])
    mergeable = vmas[vmas["mergeable"]]
    opted_in = int(mergeable["mm_id"].nunique())
    findings.add_ksm(
        ksm,
        f"{opted_in} processes, {len(mergeable)} VMAs are mergeable",
        mergeable_processes=opted_in,
        mergeable_vmas=len(mergeable),
    )
    if ksm["counters"].get("pages_sharing") and not ksm_flag_holds():
        findings.add(
            "KSM pages",
            "this kernel marks every anonymous page as KSM's; smaps counts them, which may leave "
            "some open",
            status="warn",
            hint="--live sees them all",
        )
    pairs = (line.split() for line in _MEMINFO.read_text().splitlines())
    anonymous = next((int(pair[1]) << 10 for pair in pairs if pair[0] == "AnonPages:"), 0)
    cores = workers_here()
    read = 0 if without_contents else anonymous
    seconds = _START_UP_SECONDS + read / _BYTES_PER_SECOND / cores
    findings.add(
        "memory", f"{anonymous / _GIB:.1f} GiB of anonymous memory", anonymous_bytes=anonymous
    )
    if without_contents:
        findings.add("coverage", UPPER_BOUND_ONLY, status="warn")
    findings.add(
        "time", f"about {seconds:.1f} s on {cores} of the cores", seconds=round(seconds, 1)
    )
    return findings


def _rights(findings: Findings) -> bool:
    require_rights()
    findings.add("rights", "root, PFNs can be seen")
    return True

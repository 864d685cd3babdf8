"""The fork server of ``instagram`` at an eighth of its size, in a guest, and its ksmd."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from tests.lab.guest import Guest
from tests.lab.instagram import as_published, script
from tests.lab.kernels import fetch_kernel, say
from tests.lab.programs import build
from tests.lab.truth import HISTORY, KSM
from tests.lab.workload import Session, Workload

SERIES = "6.12"
SCALE = 8
MEMORY_MIB = 5 * 1024
SCANS = 14
"""Full scans with smart_scan on before the ones that are timed."""
PACES = (5000, 4000, 2000, 1000)
"""pages_to_scan of the scans that are timed."""
ADVISOR_SECONDS = 25
"""advisor_target_scan_time in the guest: the kernel's 200 s, divided as the memory is."""
ADVISOR_STEPS = 8
_KSM = {"smart_scan": 1, "sleep_millisecs": 3_600_000}  # one full scan when it is asked for
_PATIENCE_SECONDS = 1800.0
_TRACING = "/sys/kernel/tracing"

# Waits for the end of the next full scan; prints the counters of ksmd at that moment.
_AT_END = f"""
ksmd=$(pidof ksmd)
at_end() {{
    read before < {KSM}/full_scans; now=$before
    while [ $now = $before ]; do read now < {KSM}/full_scans; done
    read seconds rest < /proc/uptime
    read cpu_ns rest < /proc/$ksmd/schedstat
    read scanned < {KSM}/pages_scanned
    while read name value; do
        [ $name = voluntary_ctxt_switches: ] && sleeps=$value
    done < /proc/$ksmd/status
    echo $now $seconds $cpu_ns $scanned $sleeps
}}
"""


@dataclass(frozen=True)
class TimedScan:
    """One full scan of the guest's ksmd, from the end of the one before it to its own.

    ``sleeps``: how often ksmd slept, which it does after each batch. ``cpu_seconds`` are those of
    an emulated processor.
    """

    full_scan: int
    pages_to_scan: int
    pages_scanned: int
    sleeps: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class GuestTruth:
    """What the guest's kernel says.

    ``history``: the counters after each of ``SCANS`` full scans from the start, the scans that are
    ``timed`` come after them. ``advised``: of each full scan with the advisor on, after those, its
    whole seconds, the pages_to_scan set then, and percent of a CPU.
    """

    release: str
    history: list[dict[str, int]]
    timed: list[TimedScan]
    advised: list[tuple[int, int, int]]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))


def load(path: Path) -> GuestTruth:
    """What ``save`` wrote."""
    told = json.loads(path.read_text())
    told["timed"] = [TimedScan(**scan) for scan in told["timed"]]
    return GuestTruth(**told)


def watch(keep: Path) -> None:
    """Fill ``keep``: ``guest.ksm``, collected before KSM is on, and ``truth.json``."""
    kernel = fetch_kernel(SERIES)
    programs = {f"/bin/{name}": build(name, kernel) for name in ("actor", "probe")}
    workload = Workload("instagram", (), thp="never", ksm=_KSM)
    with Guest(kernel, memory_mib=MEMORY_MIB, files=programs) as guest:
        session = Session(guest, workload)
        session.set_up()
        guest.write_file("/tmp/script", script(as_published().part(SCALE)))
        say(f"{kernel.release}: the fork server fills its memory")
        guest.run("actor start /tmp/script 1", timeout_seconds=_PATIENCE_SECONDS)
        with tempfile.TemporaryDirectory(prefix="ksm-figures.") as directory:
            vmcore = Path(directory) / "vmcore"
            guest.dump(vmcore)
            collect = ["ksm-estimator", "collect", "--core", str(vmcore)]
            collect += ["--symbols", str(kernel.vmlinux), "-o", str(keep / "guest.ksm")]
            subprocess.run(collect, check=True)
        say(f"{kernel.release}: {SCANS} full scans")
        lines = guest.run(f"probe settle {SCANS} 0 {SCANS}", timeout_seconds=_PATIENCE_SECONDS)
        history = [
            dict(zip(HISTORY, map(int, line.split()), strict=True)) for line in lines.splitlines()
        ]
        timed = _timed(guest)
        advised = _advised(guest)
        guest.write_file(f"{KSM}/run", "0")
    GuestTruth(kernel.release, history, timed, advised).save(keep / "truth.json")


def _timed(guest: Guest) -> list[TimedScan]:
    """A full scan with each of ``PACES``."""
    say(f"{guest.kernel.release}: full scans with pages_to_scan {PACES}")
    guest.write_file(f"{KSM}/sleep_millisecs", "20")
    guest.write_file(f"{KSM}/run", "1")
    steps = "\n".join(f"at_end; echo {pace} > {KSM}/pages_to_scan" for pace in PACES)
    lines = guest.run(f"{_AT_END}{steps}\nat_end", timeout_seconds=_PATIENCE_SECONDS).splitlines()
    guest.write_file(f"{KSM}/run", "0")
    ends = [tuple(map(float, line.split())) for line in lines]
    found = []
    for pace, (before, after) in zip(PACES, pairwise(ends), strict=True):
        scan, seconds, cpu_ns, pages, sleeps = (b - a for a, b in zip(before, after, strict=True))
        assert scan == 1
        found.append(
            TimedScan(int(after[0]), pace, int(pages), int(sleeps), round(seconds, 2), cpu_ns / 1e9)
        )
    return found


def _advised(guest: Guest) -> list[tuple[int, int, int]]:
    """Full scans with the scan-time advisor, from the kernel's own trace event."""
    say(f"{guest.kernel.release}: {ADVISOR_STEPS} full scans with the advisor")
    guest.run(f"mount -t tracefs tracefs {_TRACING}")
    guest.write_file(f"{_TRACING}/events/ksm/ksm_advisor/enable", "1")
    guest.write_file(f"{KSM}/advisor_target_scan_time", str(ADVISOR_SECONDS))
    guest.write_file(f"{KSM}/advisor_mode", "scan-time")
    guest.write_file(f"{KSM}/run", "1")
    events = f"grep -c ksm_advisor: {_TRACING}/trace"
    guest.run(
        f"while [ $({events}) -lt {ADVISOR_STEPS} ]; do sleep 1; done",
        timeout_seconds=_PATIENCE_SECONDS,
    )
    guest.write_file(f"{KSM}/run", "0")
    lines = guest.run(f"grep ksm_advisor: {_TRACING}/trace").splitlines()[:ADVISOR_STEPS]
    return [_event(line) for line in lines]


def _event(line: str) -> tuple[int, int, int]:
    """``ksm_advisor: ksm scan time S pages_to_scan N cpu percent P``."""
    words = line.split("ksm_advisor: ")[1].split()
    return int(words[3]), int(words[5]), int(words[8])

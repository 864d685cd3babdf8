"""A workload: what some processes do with their memory, and how ksmd is set while they hold still.

Each process executes a script, one operation per line ('#': comment). R is a region or a part of
it in pages: ``data``, ``data[10:20]``, ``data[10:]``, ``data[5]``. Numbers of pages are also
``2H``, as two huge pages have, and ``1H+5``, ``1H-5``.

- ``map NAME PAGES [KIND]``: anon (default), sparse (no reserve), shared, file, shared-file, memfd,
  shared-memfd, hugetlb, shared-hugetlb, stack, heap, mte (PROT_MTE). Regions are aligned as huge
  pages are and far from each other.
- ``fill R CONTENT [SEED]``: zero; same (one content for all pages); list (a content per page, the
  same in every process); own (a content per page that no other process has); and, as list but for
  something of their own: end (the last word), address (word 100, which is an address of the
  process), piece (all but the first KiB)
- ``thin R``: keep three bytes in eight, so that it compresses; what was equal stays equal
- ``read R``; ``touch R`` (as a debugger reads); ``unmap R``; ``lock R`` (mlock)
- ``node R NODE`` (mbind; what is there moves)
- ``protect R none|read|write``
- ``advise R ADVICE``: mergeable, unmergeable, hugepage, nohugepage, pageout, cold, free, ...
- ``merge-any 0|1``: prctl(PR_SET_MEMORY_MERGE)
- ``stripes R``: every second page becomes a VMA of its own
- ``pin R`` (vmsplice to a pipe), ``register R`` (io_uring buffer)
- ``rewrite R MILLISECONDS``: change all pages for ever; the process does not stop
- ``cpu N``: run on this CPU only; ``burn MILLISECONDS``: use it for so long
- ``fork N`` ... ``end``: N children, one after the other, each executes the block and stops
- ``threads N``; ``share-mm`` (CLONE_VM); ``vfork``; ``drop-leader``; ``exec``; ``comm NAME``
- ``stop``: like the end of a script, but ``Session.go`` lets the process go on from here

Processes start in the order given; each has set up its memory and stopped (SIGSTOP) before the
next one starts, so that the order on ksmd's list is known.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.guest import Guest, States
from tests.lab.kernels import SERIES, Kernel, machine_of, number_of, page_bytes_of
from tests.lab.programs import build
from tests.lab.truth import KSM, STABLE_SCANS, Truth, report, settle

THP = "/sys/kernel/mm/transparent_hugepage"
MOST_MIB = 4096  # with pages of 64 KiB some would take 12 GiB, and dumps as large
NEVER_MILLISECONDS = 4_000_000_000
# The kernel's own DAMON (6.17) holds a folio now and then; ksmd leaves it for its next scan, and of
# what fork shares single mappings for ever.
WITHOUT_DAMON_STAT = "f=/sys/module/damon_stat/parameters/enabled; [ ! -e $f ] || echo N > $f"
_PATIENCE = 20  # khugepaged comes by when it likes


@dataclass(frozen=True)
class Workload:
    """Processes, and the settings of their guest.

    ``scripts``: one process each. ``memory_mib``: with pages of 4 KiB, otherwise in proportion.
    ``ksm``: files of /sys/kernel/mm/ksm, set before they start.
    ``machines``: where it means something. ``mte``: the machine has memory tagging (arm64).
    ``thp``: the mode of transparent huge pages. ``numa_balancing``: pages of processes that run on
    another node become PROT_NONE. ``khugepaged``: it runs, and ksmd does not come to rest but stops
    after ``min_scans``. ``settings``: further files of the guest to write;
    ``modules`` are loaded before, ``commands`` executed after that; ``commands_after_dump`` before
    ksmd runs, without the kernel's own DAMON.
    ``min_scans``: full scans ksmd needs at least to come to rest. ``before_dump`` and
    ``after_dump``: what else happens, with ksmd off before and after. A second dump can be taken
    some seconds after the first, of processes that don't stop.
    """

    name: str
    scripts: tuple[str, ...]
    series: tuple[str, ...] = SERIES
    memory_mib: int = 256
    nodes: int = 1
    cpu: str = "max"
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    mte: bool = False
    thp: str = "madvise"
    ksm: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    numa_balancing: bool = False
    khugepaged: bool = False
    min_scans: int = 4
    commands_after_dump: tuple[str, ...] = ()
    before_dump: Callable[[Session], None] | None = None
    after_dump: Callable[[Session], None] | None = None
    second_dump_after_seconds: float | None = None

    def runs_on(self, series: str) -> bool:
        """Whether it means something on kernels of ``series``, and fits into MOST_MIB of memory.

        With the hugetlb pages that it reserves, which are of 512 MiB where pages are of 64 KiB.
        """
        page_bytes = page_bytes_of(series)
        memory_mib = self.memory_mib_of(page_bytes)
        reserved = int(self.settings.get("/proc/sys/vm/nr_hugepages", 0))
        reserved_mib = reserved * (page_bytes // 8) * page_bytes >> 20
        fits = memory_mib <= MOST_MIB and reserved_mib <= memory_mib // 2
        return number_of(series) in self.series and machine_of(series) in self.machines and fits

    def memory_mib_of(self, page_bytes: int) -> int:
        """The memory of its guest, with pages of that size."""
        return self.memory_mib * page_bytes // 4096

    def guest_like(self, series: str) -> str:
        """Equal for those whose guests boot alike, and of which one can go on from another's."""
        boots = (self.memory_mib, self.nodes, self.cpu, self.mte, self.modules)
        return repr((series, *boots, self.numa_balancing))


def _in_pages(script: str, huge_page: int) -> str:
    """``script`` with numbers of pages only."""

    def pages(found: re.Match[str]) -> str:
        return str(int(found[1]) * huge_page + int(found[2] or 0))

    return re.sub(r"\b(\d+)H([+-]\d+)?", pages, script)


class Session:
    """A workload in its guest."""

    def __init__(self, guest: Guest, workload: Workload) -> None:
        self.guest = guest
        self.workload = workload
        self.actors: list[int] = []

    def set_up(self) -> None:
        """Apply the settings of the workload; ksmd stays off."""
        khugepaged, on = f"{THP}/khugepaged", self.workload.khugepaged
        settings = {
            f"{khugepaged}/scan_sleep_millisecs": 100 if on else NEVER_MILLISECONDS,
            f"{THP}/enabled": self.workload.thp,
            f"{KSM}/pages_to_scan": 1_000_000_000,
            f"{KSM}/sleep_millisecs": 20,
            **{f"{KSM}/{name}": value for name, value in self.workload.ksm.items()},
            **self.workload.settings,
        }
        if "smart_scan" not in self.workload.ksm:
            self.guest.run(f"[ ! -e {KSM}/smart_scan ] || echo 0 > {KSM}/smart_scan")
        medium = str(16 * self.guest.kernel.page_bytes >> 10)
        for path, value in settings.items():
            self.guest.write_file(path.replace("{16 pages}", medium), str(value))
        for command in self.workload.commands:
            self.guest.run(command)

    def start(self, script: str) -> int:
        """Start a process and wait until it has stopped; its pid."""
        number = len(self.actors) + 1
        path = f"/tmp/script{number}"
        self.guest.write_file(path, _in_pages(script, self.guest.kernel.page_bytes // 8))
        self.actors.append(int(self.guest.run(f"actor start {path} {number}")))
        return self.actors[-1]

    def go(self, actor: int) -> None:
        """Let the process number ``actor`` (from 0) go on to its next stop."""
        self.guest.run(f"actor go {self.actors[actor]}")

    def scan(self, full_scans: int) -> None:
        """Let ksmd make some full scans, and stop it."""
        self.guest.run(f"probe scan {full_scans}")


@dataclass(frozen=True)
class LabResult:
    """A vmcore of the frozen workload, and what ksmd then did with that memory."""

    workload: Workload
    kernel: Kernel
    vmcore: Path
    second_vmcore: Path | None
    truth: Truth

    @property
    def vmlinux(self) -> Path:
        """Debug symbols for ``vmcore``."""
        return self.kernel.vmlinux


@functools.cache
def _states() -> States:
    return States(most=10)


@contextlib.contextmanager
def booted(workload: Workload, kernel: Kernel) -> Iterator[Session]:
    """A guest that is set up for the workload; none of its processes has started."""
    with Guest(
        kernel,
        memory_mib=workload.memory_mib_of(kernel.page_bytes),
        nodes=workload.nodes,
        cpu=workload.cpu,
        machine="mte=on" if workload.mte else "",
        modules=workload.modules,
        files={f"/bin/{name}": build(name, kernel) for name in ("actor", "probe")},
        arguments=(f"numa_balancing={'enable' if workload.numa_balancing else 'disable'}",),
        states=_states(),
    ) as guest:
        session = Session(guest, workload)
        session.set_up()
        yield session


def run_workload(workload: Workload, kernel: Kernel, vmcore: Path) -> LabResult:
    """Boot a guest, start the workload, dump its memory to ``vmcore``, then let ksmd run."""
    with booted(workload, kernel) as session:
        guest = session.guest
        for script in workload.scripts:
            session.start(script)
        if workload.before_dump:
            workload.before_dump(session)
        before = report(guest)
        guest.dump(vmcore)
        second_vmcore = None
        if workload.second_dump_after_seconds is not None:
            time.sleep(workload.second_dump_after_seconds)
            second_vmcore = vmcore.with_name(f"{vmcore.name}-second")
            guest.dump(second_vmcore)
        if workload.after_dump:
            workload.after_dump(session)
        for command in (WITHOUT_DAMON_STAT, *workload.commands_after_dump):
            guest.run(command)
        stable_scans = 0 if workload.khugepaged else STABLE_SCANS
        for _ in range(_PATIENCE):
            history = settle(guest, min_scans=workload.min_scans, stable_scans=stable_scans)
            after = report(guest)
            collapses = after.vmstat["thp_collapse_alloc"] - before.vmstat["thp_collapse_alloc"]
            if collapses or not workload.khugepaged:
                break
        truth = Truth(kernel.release, before, after, history, session.actors)
    return LabResult(workload, kernel, vmcore, second_vmcore, truth)

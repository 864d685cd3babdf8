"""What a guest's kernel says: the state of KSM and of every process, before and after ksmd ran."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.lab.guest import Guest

KSM = "/sys/kernel/mm/ksm"
TICK_NS = 10_000_000  # of /proc: USER_HZ is 100
_KSMD_STAT = "cat $(grep -l '^ksmd$' /proc/[0-9]*/comm | sed 's/comm$/stat/')"
SETTLE_SECONDS = 900.0  # only what hangs should end so
STABLE_SCANS = 3


@dataclass(frozen=True)
class State:
    """The report of a guest at one moment (see ``report`` in probe.c).

    ``ksm``: the files of /sys/kernel/mm/ksm. ``processes``: all that have memory, each with pid,
    ppid, comm, state, ksm_merging_pages, ksm_stat (as far as the kernel has them) and ``vmas``
    (start, end, name, flags; Rss, Anonymous, AnonHugePages, Swap, KSM of smaps in ``*_kb``).
    ``free_pages`` are those of the buddy lists, ``per_cpu_free_pages`` those of the per-CPU lists;
    ``slab_unused_bytes`` are in slabs, but in no object.
    """

    ksm: dict[str, str]
    processes: list[dict[str, Any]]
    vmstat: dict[str, int]
    free_pages: int
    per_cpu_free_pages: int
    slab_unused_bytes: int

    def counter(self, name: str) -> int | None:
        """A counter of /sys/kernel/mm/ksm; None if this kernel does not have it."""
        value = self.ksm.get(name)
        return None if value is None else int(value)

    @property
    def ksm_rmap_items(self) -> int:
        """All rmap_items there are; no file of sysfs says it."""
        names = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
        return sum(int(self.ksm[name]) for name in names)

    @cached_property
    def by_pid(self) -> dict[int, dict[str, Any]]:
        """The processes by pid."""
        return {process["pid"]: process for process in self.processes}


@dataclass(frozen=True)
class Truth:
    """What happened to a workload in its guest.

    ``before``: when the memory was dumped; ``after``: when ksmd had come to rest. ``history``: the
    counters after each stop of ksmd (about every full scan: ``full_scans`` says which), those of
    ``HISTORY`` that the kernel has. ``actors``: pids of the processes the
    workload started itself, in order; their forks are not in it.
    """

    release: str
    before: State
    after: State
    history: list[dict[str, int]]
    actors: list[int]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))


HISTORY = (
    *("full_scans", "pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"),
    *("ksm_zero_pages", "stable_node_chains", "stable_node_dups", "general_profit"),
    *("pages_scanned", "pages_skipped"),
)


def report(guest: Guest) -> State:
    """Ask the guest for its state."""
    return State(**json.loads(guest.run("probe report", timeout_seconds=SETTLE_SECONDS)))


def ksmd_ns(guest: Guest) -> int:
    """The CPU time of ksmd since boot, in ticks of 10 ms."""
    fields = guest.run(_KSMD_STAT).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_NS


def settle(
    guest: Guest, *, min_scans: int, stable_scans: int = STABLE_SCANS
) -> list[dict[str, int]]:
    """Let ksmd run until its counters stay the same; the counters each time it was stopped."""
    max_scans = 20 * (min_scans + stable_scans)
    lines = guest.run(
        f"probe settle {min_scans} {stable_scans} {max_scans}", timeout_seconds=SETTLE_SECONDS
    ).splitlines()
    return [
        {name: int(text) for name, text in zip(HISTORY, line.split(), strict=True) if text != "-"}
        for line in lines
    ]

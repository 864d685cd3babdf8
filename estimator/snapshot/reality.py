"""What a running system shows of KSM now, to be set beside a snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.snapshot.identity import Identity


@dataclass(frozen=True)
class RealProcess:
    """One process of the running system and its /proc/PID/ksm_stat."""

    pid: int
    comm: str
    ksm_stat: dict[str, int]


@dataclass(frozen=True)
class Reality:
    """What a running system shows.

    ``ksm``: the numbers in the files of /sys/kernel/mm/ksm. ``ksmd_cpu_seconds``: CPU time of ksmd
    since boot, None if it could not be read. ``identity``: which machine and boot it is.
    """

    ksm: dict[str, int]
    processes: list[RealProcess] = field(repr=False)
    ksmd_cpu_seconds: float | None
    identity: Identity

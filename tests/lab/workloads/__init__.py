"""All workloads of the lab."""

from __future__ import annotations

from tests.lab.workload import Workload
from tests.lab.workloads import (
    fork_server,
    forks,
    huge,
    memory,
    numa,
    pins,
    processes,
    sharing,
    states,
    zero,
)

WORKLOADS: tuple[Workload, ...] = tuple(
    workload
    for module in (
        *(fork_server, memory, sharing, forks, pins, zero, huge, numa, processes, states),
    )
    for workload in module.WORKLOADS
)


def find(name: str, series: str) -> Workload:
    """The workload ``name`` for kernels of ``series``."""
    for workload in WORKLOADS:
        if workload.name == name and series in workload.series:
            return workload
    raise KeyError(f"no workload {name!r} for {series}")

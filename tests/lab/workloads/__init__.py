"""All workloads of the lab."""

from __future__ import annotations

from tests.lab.workload import Workload
from tests.lab.workloads import (
    fork_server,
    forks,
    huge,
    khugepaged,
    memory,
    numa,
    pins,
    processes,
    savings,
    sharing,
    states,
    tagged,
    zero,
)

SUBJECTS = (
    *(
        fork_server,
        memory,
        sharing,
        forks,
        pins,
        zero,
        huge,
        khugepaged,
        numa,
        processes,
        states,
        savings,
        tagged,
    ),
)
WORKLOADS: tuple[Workload, ...] = tuple(
    workload for subject in SUBJECTS for workload in subject.WORKLOADS
)


def find(name: str, series: str) -> Workload:
    """The workload ``name`` for kernels of ``series``."""
    for workload in WORKLOADS:
        if workload.name == name and workload.runs_on(series):
            return workload
    raise KeyError(f"no workload {name!r} for {series}")

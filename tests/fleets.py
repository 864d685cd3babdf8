"""Fleets of small hosts, on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.systems import Area, Process, system


def host(number: int, **info: Any) -> Snapshot:
    """A host whose two services share ``10 + number`` pages, beside a batch job that shares none.

    Each service also repeats one page ten times.
    """
    shared = list(range(1000, 1010 + number))
    own = 100_000
    made = system(
        [
            Process("web", [Area([*shared, *[7] * 10])], cgroup="/system.slice/web@1.service"),
            Process("api", [Area([*shared, *[8] * 10])], cgroup="/system.slice/api.service"),
            Process("job", [Area([*range(own, own + 100)])], cgroup="/system.slice/job.service"),
        ]
    )
    about = {"host": f"web{number}", "boot_id": f"boot-{number}", "machine_id": f"id-{number}"}
    return replace(made, info=made.info | about | info)


def write_fleet(directory: Path, hosts: int) -> Path:
    """``directory`` with the snapshots h0.ksm, h1.ksm ... of ``hosts`` hosts."""
    directory.mkdir()
    for number in range(hosts):
        write_snapshot(host(number), directory / f"h{number}.ksm")
    return directory

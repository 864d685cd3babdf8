"""Services and programs described in a few lines, as snapshots."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from estimator.snapshot.format import FORMAT_VERSION
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import Frame, System, small

ZERO = 0  # the content of a zero-filled page


@dataclass
class Area:
    """A VMA full of present anonymous pages.

    ``contents``: a number per page, equal for equal bytes, None where it could not be read.
    ``frames``: a name per page, equal where fork shares a frame; left out, every page has a frame
    of its own.
    """

    contents: list[int] | list[int | None] | list[None]
    name: str = "[heap]"
    frames: list[str] | None = None
    excluded_by: str | None = None
    mergeable: bool = False
    locked: bool = False


@dataclass
class Process:
    """A process with its VMAs."""

    comm: str
    areas: list[Area]
    cgroup: str = "/"
    uid: int = 0
    pid: int | None = None
    sched_policy: int = 0
    cmdline: str | None = None


def system(processes: list[Process], **ksm: int) -> Snapshot:
    """A snapshot of ``processes`` on a 6.12 kernel, with the KSM settings ``ksm``."""
    settings = {"smart_scan": 1, "pages_to_scan": 100, "sleep_millisecs": 20} | ksm
    made = System("6.12", **settings)
    shared: dict[str, Frame] = {}
    for process in processes:
        target = made.process(comm=process.comm, cgroup=process.cgroup, uid=process.uid)
        for area in process.areas:
            frames = small(*area.contents)
            if area.frames:
                frames = [shared.setdefault(n, f) for n, f in zip(area.frames, frames, strict=True)]
            target.map(
                frames,
                name=area.name,
                excluded_by=area.excluded_by,
                mergeable=area.mergeable,
                locked=area.locked,
            )
    snapshot = made.snapshot()
    pids = [1000 + n if p.pid is None else p.pid for n, p in enumerate(processes)]
    return replace(
        snapshot,
        info=snapshot.info
        | {
            "format_version": FORMAT_VERSION,
            "source": {"kind": "core", "path": "vmcore", "format": "elf"},
            "host": "example",
            "collected_at": "2026-01-01T00:00:00+00:00",
        },
        processes=snapshot.processes.assign(
            pid=np.array(pids, np.int32),
            cmdline=np.array([process.cmdline for process in processes], np.object_),
            sched_policy=np.array([p.sched_policy for p in processes], np.uint8),
        ),
    )


def fork_server(workers: int = 12, shared: int = 400, own: int = 150) -> Snapshot:
    """A service of forked workers, a second service like it, and a loner.

    Every worker has ``shared`` pages that fork shares, a private copy of the same ``2 * shared``
    pages, ``own`` unique pages and some zero-filled ones. The second service holds the same data;
    the loner repeats itself.
    """
    unique = iter(range(1_000_000, 10_000_000))
    data = list(range(1, 2 * shared + 1))
    processes = [
        Process(
            "worker" if i else "controller",
            [
                Area(list(range(5000, 5000 + shared)), frames=[f"f{k}" for k in range(shared)]),
                Area(data, name="[anon:cache]"),
                Area([next(unique) for _ in range(own)] + [ZERO] * 40, name=""),
                Area([next(unique) for _ in range(8)], name="[stack]"),
                Area([next(unique) for _ in range(30)], name="/dev/shm/x", excluded_by="shared"),
            ],
            cgroup="/system.slice/app.service",
            uid=33,
        )
        for i in range(workers + 1)
    ]
    processes += [
        Process(
            "batch",
            [
                Area(data[:shared], name="[anon:cache]", mergeable=True),
                Area([next(unique) for _ in range(500)]),
            ],
            cgroup="/system.slice/batch.service",
            uid=1001,
        )
        for _ in range(2)
    ]
    processes.append(
        Process(
            "loner",
            [
                Area([7_000_000 + i % 50 for i in range(300)], name=""),
                Area([next(unique) for _ in range(3000)], name="[heap]"),
                Area([None] * 20),
            ],
            cgroup="/user.slice/user-1000.slice/session-2.scope",
            uid=1000,
        )
    )
    return system(processes)

"""A frozen workload in a guest that a test looks into while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.guest import Guest
from tests.lab.kernels import Kernel
from tests.lab.programs import build
from tests.lab.workload import Session, Workload


@dataclass(frozen=True)
class Running:
    """A guest with its workload; ``monitor``: a QMP socket that nobody uses."""

    guest: Guest
    session: Session
    monitor: Path


@contextlib.contextmanager
def running(
    workload: Workload, kernel: Kernel, directory: Path, programs: Sequence[str] = ()
) -> Iterator[Running]:
    """Boot a guest and start ``workload`` in it; ``programs`` are there besides actor and probe.

    Sockets go to ``directory``.
    """
    monitor = directory / "monitor"
    with Guest(
        kernel,
        memory_mib=workload.memory_mib,
        files={f"/bin/{name}": build(name) for name in ("actor", "probe", *programs)},
        arguments=("numa_balancing=disable",),
        qemu=("-qmp", f"unix:{monitor},server=on,wait=off"),
    ) as guest:
        session = Session(guest, workload)
        session.set_up()
        for script in workload.scripts:
            session.start(script)
        yield Running(guest, session, monitor)

"""Programs as servers run them, started by systemd with MemoryKSM=yes, worked with, and frozen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from estimator.snapshot.names import unit_of
from tests.lab.apt import LabError
from tests.lab.kernels import say
from tests.lab.systemd_guest import SystemdGuest
from tests.lab.truth import KSM
from tests.lab.workload import NEVER_MILLISECONDS, THP

SLICE = "programs.slice"
CGROUP = f"/sys/fs/cgroup/{SLICE}"
PGBENCH = "systemd-run --quiet --unit pgbench --uid postgres pgbench --no-vacuum --client 20"
IDLE = "psql -Atc \"SELECT count(*) = 20 FROM pg_stat_activity WHERE application_name = 'pgbench'"


@dataclass(frozen=True)
class Program:
    """``units`` of systemd, ``traffic`` (shell commands) and ``version`` (a command that prints
    it). ``quick``: starts in seconds, also emulated."""

    name: str
    units: tuple[str, ...]
    traffic: tuple[str, ...]
    version: str
    quick: bool = False

    def cgroups(self, processes: pd.DataFrame) -> tuple[str, ...]:
        """Where its units are in a snapshot with these ``processes``."""
        found = processes["cgroup"].unique()
        return tuple(cgroup for cgroup in found if unit_of(cgroup) in self.units)


def _traffic(program: str) -> tuple[str, ...]:
    return (f"python3 /opt/programs/traffic.py {program}",)


PROGRAMS = (
    Program(
        "PostgreSQL, 20 connections",
        ("postgresql@17-main.service",),
        (
            "runuser -u postgres -- pgbench --initialize --quiet",
            f"{PGBENCH} --transactions 1 --file /opt/programs/queries.sql",
            f"until runuser -u postgres -- {IDLE} AND state = 'idle' AND query LIKE '%relpages%'\""
            " | grep -q t; do sleep 1; done",
        ),
        "psql --version",
    ),
    Program(
        "Redis, three with the same keys",
        tuple(f"redis-server@{number}.service" for number in (1, 2, 3)),
        _traffic("redis"),
        "redis-server --version | cut -d ' ' -f 1-3",
        quick=True,
    ),
    Program(
        "memcached",
        ("memcached.service",),
        _traffic("memcached"),
        "memcached --version",
        quick=True,
    ),
    Program(
        "nginx with php-fpm, 6 workers",
        ("php8.4-fpm.service", "nginx.service"),
        _traffic("php"),
        "nginx -v; php-fpm8.4 --version | head -n 1 | cut -d ' ' -f 1-2",
        quick=True,
    ),
    Program(
        "gunicorn, Flask and pandas, 4 workers",
        ("flask@each.service",),
        _traffic("flask-each"),
        "gunicorn --version; python3 --version",
    ),
    Program(
        "the same with --preload",
        ("flask@preload.service",),
        _traffic("flask-preload"),
        "gunicorn --version; python3 --version",
    ),
    Program(
        "Node cluster, 4 workers",
        ("node-cluster.service",),
        _traffic("node"),
        "node --version",
    ),
    Program(
        "three JVMs",
        tuple(f"java@{port}.service" for port in (8101, 8102, 8103)),
        _traffic("java"),
        "java -version 2>&1 | head -n 1",
    ),
)


def start(
    system: SystemdGuest, programs: Sequence[Program] = PROGRAMS, *, memory_ksm: bool = True
) -> None:
    """Start ``programs`` in their slice and let each do its work; khugepaged and ksmd stay off."""
    guest = system.guest
    guest.write_file(f"{THP}/khugepaged/scan_sleep_millisecs", str(NEVER_MILLISECONDS))
    guest.write_file(f"{KSM}/pages_to_scan", "1000000000")
    for unit in (unit for program in programs for unit in program.units):
        drop_in = f"/run/systemd/system/{unit}.d"
        text = f"[Service]\\nSlice={SLICE}\\n" + "MemoryKSM=yes\\n" * memory_ksm
        system.run(f"mkdir -p {drop_in} && printf '{text}' > {drop_in}/lab.conf")
    system.run("systemctl daemon-reload")
    for program in programs:
        started = time.monotonic()
        names = " ".join(program.units)
        system.run(f"systemctl start {names} || {{ systemctl status {names}; false; }}")
        work(system, (program,))
        say(f"{program.name}: started and worked with, {time.monotonic() - started:.0f} s")


def work(system: SystemdGuest, programs: Sequence[Program]) -> None:
    """Let ``programs``, which run, do their work."""
    for command in (command for program in programs for command in program.traffic):
        system.run(command)


def freeze(system: SystemdGuest) -> list[int]:
    """Freeze all processes of the slice; their pids."""
    system.guest.write_file(f"{CGROUP}/cgroup.freeze", "1")
    frozen = f"grep -q 'frozen 1' {CGROUP}/cgroup.events"
    system.run(f"until {frozen}; do sleep 0.1; done")
    listed = system.run(f"find {CGROUP} -name cgroup.procs -exec cat {{}} +").split()
    if not listed:
        raise LabError(f"no process is in {SLICE}")
    return sorted(map(int, listed))

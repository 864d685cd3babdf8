"""``fleet report`` on many snapshots: how many a second, and how much memory that takes.

A few snapshots are varied: each host has a name, boot and time of its own, and links to the tables
of one of them, so that 10,000 hosts take little disk. What is read and computed is the same as if
each had files of its own, but the page cache is warm.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import psutil

from estimator.fleet.kinds import Roles
from estimator.fleet.one_host import Question, study
from estimator.fleet.results import Part, Results
from estimator.fleet.run import cluster, read_fleet
from estimator.fleet.storage import find_places
from estimator.fleet.summary import summarise
from estimator.fleet.task import start_row
from estimator.ksm.policy import Policy
from estimator.snapshot.store import write_snapshot
from tests.systems import fork_server

_KINDS = 8
_PART = 500
_MIB = 1 << 20


@dataclass
class Measured:
    """One run: seconds to read all, CPU time of workers and client for it and to sum up, peaks."""

    seconds: float
    worker_cpu_seconds: float
    client_cpu_seconds: float
    summary_cpu_seconds: float
    client_mib: float
    worker_mib: float
    counted: int


def vary(originals: Sequence[Path], directory: Path, hosts: int) -> Path:
    """``directory`` with ``hosts`` snapshots, made of ``originals`` in turn."""
    directory.mkdir()
    for number in range(hosts):
        original = originals[number % len(originals)]
        place = directory / f"host{number:06}.ksm"
        place.mkdir(mode=0o700)
        for file in original.iterdir():
            if file.name != "snapshot.json":
                os.link(file, place / file.name)
        info = json.loads((original / "snapshot.json").read_text())
        named = {"host": f"host{number:06}", "boot_id": f"boot-{number}", "machine_id": None}
        (place / "snapshot.json").write_text(json.dumps(info | named))
    return directory


def small_ones(directory: Path) -> list[Path]:
    """Snapshots of a fork server, of different sizes."""
    paths = []
    for number in range(_KINDS):
        paths.append(directory / f"original{number}.ksm")
        made = fork_server(workers=2 + number, shared=40 + 7 * number, own=15)
        write_snapshot(made, paths[-1])
    return paths


def measure(directory: Path, output: Path, workers: int, kill: bool) -> Measured:
    """A run over ``directory``; ``kill``: one worker, when half is done."""
    question = Question(Policy(), "unit", 150.0)
    places = find_places([str(directory)], 60)
    results = Results(output, question)
    peaks = [0.0, 0.0]
    with cluster(None, workers) as client:
        pids = list(client.run(os.getpid).values())
        ours = psutil.Process()

        def told(done: int, total: int) -> None:
            nonlocal kill
            peaks[0] = max(peaks[0], ours.memory_info().rss / _MIB)
            for pid in pids:
                with suppress(psutil.NoSuchProcess):
                    peaks[1] = max(peaks[1], psutil.Process(pid).memory_info().rss / _MIB)
            if kill and done * 2 >= total:
                kill = False
                os.kill(pids[0], signal.SIGKILL)

        before = sum(client.run(time.process_time).values())
        start, ours_before = time.monotonic(), time.process_time()
        read_fleet(client, places, question, results, told, 60)
        seconds, ours_read = time.monotonic() - start, time.process_time()
        cpu = sum(client.run(time.process_time).values()) - before
        start_summary = time.process_time()
        summary = summarise(results, question.policy, Roles(), places)
        summary_cpu = time.process_time() - start_summary
        peaks[0] = max(peaks[0], ours.memory_info().rss / _MIB)
    return Measured(
        seconds=seconds,
        worker_cpu_seconds=cpu,
        client_cpu_seconds=ours_read - ours_before,
        summary_cpu_seconds=summary_cpu,
        client_mib=peaks[0],
        worker_mib=peaks[1],
        counted=len(summary.hosts),
    )


def bench_fleet(hosts: Sequence[int], workers: int, snapshots: Sequence[Path], kill: bool) -> None:
    """Print a row for each number of ``hosts``, ready for docs/fleet.md.

    Each is measured in a process of its own: one that has run before is larger.
    """
    load = os.getloadavg()[0]
    click.echo(f"{os.cpu_count()} CPUs, load {load:.1f} before; {workers} workers")
    columns = ["hosts", "s", "CPU ms per snapshot: workers", "client", "summing up, CPU s"]
    _row(*columns, "client MiB", "worker MiB")
    _row(*["---:"] * (len(columns) + 2))
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as apart:
        for number in hosts:
            with TemporaryDirectory(prefix="ksm-bench-") as name:
                here = Path(name)
                directory = vary(snapshots or small_ones(here), here / "fleet", number)
                measured = apart.submit(measure, directory, here / "out.fleet", workers, kill)
                found = measured.result()
            if found.counted != number:
                raise click.ClickException(f"{found.counted} of {number} hosts are counted")
            _row(
                f"{number:,}",
                f"{found.seconds:.1f}",
                f"{1000 * found.worker_cpu_seconds / number:.0f}",
                f"{1000 * found.client_cpu_seconds / number:.0f}",
                f"{found.summary_cpu_seconds:.1f}",
                f"{found.client_mib:.0f}",
                f"{found.worker_mib:.0f}",
            )


def bench_summary(hosts: Sequence[int]) -> None:
    """Print what summing up takes of so many hosts, whose rows are made of those of a few.

    No snapshot is read: this is the part of ``fleet report`` that runs in one process for all.
    """
    question = Question(Policy(), "unit", 150.0)
    rows = [study(fork_server(2 + n, shared=40 + 7 * n, own=15), question) for n in range(_KINDS)]
    _row("hosts", "on the disk, MiB", "summing up, CPU s", "client MiB")
    _row(*["---:"] * 4)
    for number in hosts:
        with TemporaryDirectory(prefix="ksm-bench-") as name:
            results = Results(Path(name) / "out.fleet", question)
            for first in range(0, number, _PART):
                part = Part()
                for host in range(first, min(first + _PART, number)):
                    row = start_row(f"/{host}.ksm", "0") | {"picture": str(host)}
                    about = {"host": f"host{host}", "boot_id": f"boot-{host}"}
                    part.add(row | about | {"collected_seconds": 1.0}, rows[host % _KINDS])
                results.write(part)
            places = [f"/{host}.ksm" for host in range(number)]
            size = sum(file.stat().st_size for file in results.path.rglob("*.parquet"))
            start = time.process_time()
            summary = summarise(results, question.policy, Roles(), places)
            seconds = time.process_time() - start
            memory = psutil.Process().memory_info().rss / _MIB
        if len(summary.hosts) != number:
            raise click.ClickException(f"{len(summary.hosts)} of {number} hosts are counted")
        _row(f"{number:,}", f"{size / _MIB:.1f}", f"{seconds:.1f}", f"{memory:.0f}")


def _row(*cells: str) -> None:
    click.echo(f"| {' | '.join(cells)} |")

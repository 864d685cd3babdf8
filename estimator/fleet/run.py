"""Dask does the work: local processes by default, a user's cluster by its address.

As many snapshots are on their way as the workers are busy with, twice; results are written as they
come. A worker that dies is started again by its nanny, its snapshots go to others; one that several
workers died of is a row that says so.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import dask
import distributed
import pyarrow as pa
from distributed import Client, LocalCluster, as_completed
from distributed.security import Security

from estimator._version import __version__
from estimator.arrays import usable_cpus
from estimator.errors import ResourceError, TargetError, UsageError
from estimator.fleet.one_host import Question
from estimator.fleet.results import Part, Results
from estimator.fleet.storage import remote_fingerprint
from estimator.fleet.task import Found, ignore_interrupts, read_place, start_row, worker_version
from estimator.signals import interrupts_wait

_PART_SNAPSHOTS, _PART_SECONDS = 500, 10.0
_CONNECT_SECONDS = 10
_LOOK_SECONDS = 0.02
_IN_FLIGHT = 2  # snapshots for each thread of a worker
_QUIET = dict.fromkeys(
    ("distributed", "distributed.client", "tornado", "tornado.application"), "critical"
)
"""Loggers: what fails there becomes a row, or our one line."""

Told = Callable[[int, int], None]
"""Called with how many snapshots are done, and how many there are."""


@contextlib.contextmanager
def cluster(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """A client of the cluster at ``scheduler``, or of ``workers`` processes of this machine.

    The latter talk over encrypted connections of this machine with keys of their own: whoever can
    reach a scheduler can run code as its user. Raises TargetError where there is no scheduler,
    UsageError for what is no address of one.
    """
    for noisy in _QUIET:
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if scheduler is not None:
        with _connect(scheduler) as client:
            yield client
        return
    with TemporaryDirectory(prefix="ksm-fleet-") as directory:  # mode 0700
        settings = {
            "temporary-directory": directory,
            "distributed.comm.timeouts.connect": "120s",
            "distributed.scheduler.http.routes": [],  # nothing is shown to who asks
            "distributed.worker.http.routes": [],
            "distributed.worker.profile.enabled": False,  # nobody looks at what Dask measures
            "distributed.admin.tick.interval": "500ms",
            "distributed.admin.system-monitor.interval": "10s",
            "distributed.nanny.pre-spawn-environ.DASK_LOGGING": str(_QUIET),
        }
        with dask.config.set(settings), contextlib.ExitStack() as opened:
            with interrupts_wait():
                local = opened.enter_context(_local(workers or usable_cpus()))
                client = opened.enter_context(Client(local))
                client.run(pa.set_cpu_count, 1)
                client.run(ignore_interrupts)
            yield client


def _local(workers: int) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            security=Security.temporary(),
        )
    except (RuntimeError, OSError) as error:
        raise ResourceError(
            f"{workers} processes to work in could not be started: {error}",
            hint="fewer of them: --workers 1",
        ) from error


@contextlib.contextmanager
def _connect(scheduler: str) -> Iterator[Client]:
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS)
    except ValueError as error:
        raise UsageError(
            f"{scheduler} is no address of a scheduler: {error}", hint="tcp://HOST:8786"
        ) from error
    except OSError as error:
        raise TargetError(
            f"no scheduler answers at {scheduler}",
            hint="start one with: dask scheduler; and on each machine: dask worker ADDRESS",
        ) from error
    with client:
        _require_workers(client, scheduler)
        yield client


def _require_workers(client: Client, scheduler: str) -> None:
    """Raise TargetError unless there are workers that have this version of the package."""
    try:
        client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        versions = set(client.run(worker_version).values())
    except TimeoutError as error:
        raise TargetError(
            f"the scheduler {scheduler} has no workers", hint=f"dask worker {scheduler}"
        ) from error
    except Exception as error:
        raise TargetError(
            f"workers of {scheduler} lack ksm-estimator: {error}",
            hint=f"install version {__version__} with the extra fleet there",
        ) from error
    if versions != {__version__}:
        raise TargetError(
            f"workers of {scheduler} have ksm-estimator {', '.join(sorted(versions))}, "
            f"this is {__version__}",
            hint="install one version on all",
        )


def read_fleet(
    client: Client,
    places: Sequence[str],
    question: Question,
    results: Results,
    told: Told,
    timeout_seconds: float,
) -> None:
    """Write the rows of all ``places`` that ``results`` does not have yet, as they come.

    What is done is written also where this is interrupted. Raises TargetError where they can't be
    written, or the scheduler has gone.
    """
    known = results.hosts()
    known = known[~known["passing"].astype(bool)]
    done = dict(zip(known["place"], known["fingerprint"], strict=True))
    waiting = iter(places)
    ready = as_completed()
    total, finished = len(places), 0
    mark_of: dict[Any, tuple[str, str | None]] = {}
    part, written = Part(), time.monotonic()

    def submit_next() -> bool:
        nonlocal finished
        for place in waiting:
            interrupt()
            mark = remote_fingerprint(place, timeout_seconds)
            if mark is not None and done.get(place) == mark:
                finished += 1
                continue
            args = (place, mark, question, timeout_seconds)
            future = client.submit(read_place, *args, pure=False, retries=2)
            mark_of[future.key] = (place, mark)
            ready.add(future)
            return True
        return False

    with interrupts_wait() as interrupt:
        try:
            threads = sum(client.nthreads().values()) or 1
            for _ in range(_IN_FLIGHT * threads):
                if not submit_next():
                    break
            told(finished, total)
            for future in _as_they_come(ready, interrupt):
                found = _result(future, *mark_of.pop(future.key))
                part.add(found.row, found.rows)
                future.release()
                finished += 1
                told(finished, total)
                submit_next()
                late = time.monotonic() - written > _PART_SECONDS
                if late or len(part) >= _PART_SNAPSHOTS:
                    results.write(part)
                    part, written = Part(), time.monotonic()
        finally:
            results.write(part)


def _as_they_come(ready: Any, interrupt: Callable[[], None]) -> Iterator[Any]:
    """The futures of ``ready``, an ``as_completed``; ``interrupt`` is called while none is done."""
    while not ready.is_empty():
        while not ready.has_ready():
            interrupt()
            time.sleep(_LOOK_SECONDS)
        yield next(ready)


def _result(future: Any, place: str, mark: str | None) -> Found:
    """What a task found; of one that has no result, why."""
    error = None if future.status == "finished" else future.exception()
    if error is None and future.status == "finished":
        found: Found = future.result()
        return found
    if isinstance(error, distributed.scheduler.KilledWorker):
        died = dask.config.get("distributed.scheduler.allowed-failures") + 1
        problem = f"{died} workers died of it: too little memory?"
    elif future.status in ("cancelled", "lost"):
        raise TargetError(
            "the scheduler has gone", hint="with -o NAME.fleet the next run goes on from here"
        )
    else:
        problem = f"a worker failed: {type(error).__name__}: {error}"
    return Found(start_row(place, mark) | {"problem": problem, "passing": True}, None)

"""A machine that is in use: reading it keeps to the rate, to the workers, and off what is empty."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from estimator.collect.load import Pace
from estimator.collect.workers import shared_columns
from estimator.procfs import pagemap
from estimator.procfs.collect import collect_procfs
from estimator.procfs.processes import PROC
from tests.test_procfs import at_base, digest, needs_pfns, on_command, only

_PIDS = 1 << 22  # PID_MAX_LIMIT
COLLECT = """
import sys
from estimator import cli
main, pid = cli.main, int(sys.argv[1])

def of_one_process():
    from estimator.procfs import collect
    everything = collect.read_processes
    collect.read_processes = lambda: ([p for p in everything()[0] if p.pid == pid], 0)
    main()

cli.main = of_one_process
sys.argv = ["ksm-estimator", "collect", "--procfs", *sys.argv[2:]]
cli.entry()
"""


@needs_pfns
@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_together_keep_to_the_rate(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages, megabytes = 10_000, 20.0
    began = shared_columns(_PIDS, {"began": np.float64})["began"]  # by pid

    class Seen(Pace):
        def __call__(self, read_bytes: int) -> None:
            began[os.getpid()] = began[os.getpid()] or time.monotonic()
            super().__call__(read_bytes)

    with on_command(pages) as (pids, _):
        only(pids[:1], monkeypatch)
        snapshot = collect_procfs(pace=Seen(megabytes), workers=workers, progress=lambda *_: None)
        ended = time.monotonic()
    assert len(snapshot.frames) >= pages
    assert np.count_nonzero(began) == workers
    seconds = len(snapshot.frames) * 4096 / 1e6 / megabytes
    assert ended - began[began > 0].min() > 0.95 * seconds


@needs_pfns
@pytest.mark.parametrize("workers", [1, 2])
def test_so_many_workers_use_so_many_cores(workers: int, tmp_path: Path) -> None:
    """Of all that the command does, by CPU time: threads of libraries would be workers, too."""
    with on_command(50_000) as (pids, _):
        command = [sys.executable, "-c", COLLECT, str(pids[0]), "--workers", str(workers)]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([*command, "-o", str(tmp_path / "a.ksm")], check=True)
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 1.05 * workers * seconds


@needs_pfns
def test_a_sparse_mapping_of_1_tib_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its pagemap, 2 GiB, next to nothing is read."""
    read, sizes = os.pread, list[int]()

    def counted(file: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return read(file, size, offset)

    with on_command(50) as (pids, execute):
        only(pids[:1], monkeypatch)
        # PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        execute("at = libc.mmap(None, 1 << 40, 3, 0x4022, -1, 0)")
        execute("ctypes.memset(at + (1 << 39), 7, 4096)")
        with (PROC / str(pids[0]) / "pagemap").open("rb", 0) as file:
            if pagemap._populated(file.fileno(), 1, 2) == [(1, 2)]:
                pytest.skip("before 6.7 all of it has to be read")
        monkeypatch.setattr(os, "pread", counted)
        snapshot = collect_procfs(pace=Pace(None), seed=0, progress=lambda *_: None)
    assert at_base(snapshot, pids[0]) == {page: digest(page + 1) for page in range(50)}
    assert (snapshot.mappings["page_index"] == 1 << 27).any()
    assert sum(sizes) < 16 << 20

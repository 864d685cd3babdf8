"""A big fork server: many mappings of few frames. What `collect` of its dump takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from scripts.bench_dump import PROGRAM, dumped
from scripts.bench_measure import Run, best, peak_of, run, warm
from tests.lab.kernels import ensure_tools, fetch_kernel
from tests.lab.workload import Workload

_MIB = 1024**2
_REGION_PAGES = 262_144
_OWN_SHARE = 0.56  # of the guest's memory; the region, page tables and the kernel take the rest
_LIMIT_BYTES, _LIMIT_PER_MAPPING = 200 * _MIB, 24


def bench_forks(workers: int, gib: float, rounds: int) -> None:
    """Print seconds, CPU seconds, memory and the snapshot's size, for so many ``workers``.

    Each maps the region of 1 GiB that was there before the fork, and has some pages of its own.
    """
    ensure_tools()
    kernel = fetch_kernel("6.12")
    own = int(gib * _REGION_PAGES * _OWN_SHARE) // workers
    script = f"""
        comm server
        merge-any 1
        map region {_REGION_PAGES}
        fill region list 1
        fork {workers}
            comm worker
            map own {own}
            fill own own 4
        end
    """
    workload = Workload("bench", (script,), memory_mib=int(gib * 1024), thp="never")
    with dumped(kernel, workload) as vmcore, tempfile.TemporaryDirectory() as scratch:
        snapshot = Path(scratch) / "server.ksm"
        command = [PROGRAM, "collect", "--core", str(vmcore), "-o", str(snapshot), "--force"]
        runs: list[Run] = []
        for _ in range(rounds):
            warm(vmcore)
            runs.append(run(command))
        peak = peak_of(command).anonymous_bytes
        mappings, frames = (
            int(pq.read_metadata(snapshot / f"{name}.parquet").num_rows)
            for name in ("mappings", "frames")
        )
        stored = sum(path.stat().st_size for path in snapshot.iterdir())
    limit = _LIMIT_BYTES + _LIMIT_PER_MAPPING * mappings
    row = {
        "mappings": f"{mappings:,}",
        "frames": f"{frames:,}",
        "seconds": f"{best(runs).seconds:.1f}",
        "CPU seconds": f"{min(each.cpu_seconds for each in runs):.1f}",
        "anonymous MiB": f"{peak / _MIB:,.0f}",
        "limit MiB": f"{limit / _MIB:,.0f}",
        "bytes per mapping on disk": f"{stored / mappings:.2f}",
    }
    table = Table(*row, title="collect of a fork server's dump")
    table.add_row(*row.values())
    Console(width=120).print(table)

"""All that is promised of speed and memory, as ratios measured in one run on one machine."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from estimator.snapshot.store import write_snapshot
from scripts.bench_dump import PROGRAM, START_UP, dumped, fork_server, hash_alone
from scripts.bench_measure import Peak, best, peak_of, run, warm
from scripts.bench_predict import gathered
from scripts.bench_procfs import measure_procfs
from scripts.bench_running import measure_running
from tests.lab.kernels import Kernel, ensure_tools, fetch_kernel

_MIB, _MILLION = 1 << 20, 1_000_000
_FIXED_BYTES = 200 * _MIB
_COLLECT_BYTES, _ANSWER_BYTES = 24, 32  # per mapping
_FEW = 10_000  # mappings: start-up and nothing else


@dataclass(frozen=True)
class Ratio:
    """``measured`` ("1.36 s") beside something else; ``should``: "at most 1.30"."""

    name: str
    measured: str
    beside: str
    ratio: float
    should: str


def bench_ratios(gib: float, rounds: int, millions: tuple[int, int]) -> None:
    """Print the table: a dump of ``gib``, as much as half of that filled here and in a guest.

    And synthetic snapshots of so many ``millions`` of mappings. Lines come as they are measured.
    """
    console = Console(width=130)
    table = Table(title=f"ksm-estimator, a dump of {gib:g} GiB, the best of {rounds}")
    for heading in ("", "measured", "beside", "ratio", "should be"):
        table.add_column(heading, justify="right" if heading == "ratio" else "left")
    for part in (
        _of_dump(gib, rounds),
        _of_procfs(gib / 2, rounds),
        _of_running(min(gib / 2, 1.0), rounds),
        _of_snapshots(millions, rounds),
    ):
        for line in part:
            console.print(f"{line.name}: {line.ratio:.2f}", style="dim")
            table.add_row(line.name, line.measured, line.beside, f"{line.ratio:.2f}", line.should)
    console.print(table)


def _of_dump(gib: float, rounds: int) -> Iterator[Ratio]:
    ensure_tools()
    kernel = fetch_kernel("6.12")
    with dumped(kernel, fork_server(gib)) as vmcore:
        yield from ratios_of_dump(vmcore, kernel, rounds)


def ratios_of_dump(vmcore: Path, kernel: Kernel, rounds: int) -> Iterator[Ratio]:
    """Of the dump ``vmcore`` of a guest with ``kernel``."""
    core = ["--core", str(vmcore), "--symbols", str(kernel.vmlinux)]
    ours, starts, loops = [], [], []
    for _ in range(rounds):
        warm(vmcore)
        ours.append(run([PROGRAM, "run", *core]))
        starts.append(run([sys.executable, "-c", START_UP, str(vmcore), str(kernel.vmlinux)]))
        loops.append(hash_alone(vmcore, kernel))
    beyond = best(ours).seconds - best(starts).seconds
    for name, key in (
        ("one loop that maps pages and hashes them, one core", "seconds"),
        ("one in-memory hashing loop, one core", "again_seconds"),
    ):
        loop = min(each[key] for each in loops)
        measured, should = f"{beyond:.2f} s", "at most 1.30" if key == "again_seconds" else ""
        beside = f"{name}: {loop:.2f} s"
        yield Ratio("run --core beyond start-up", measured, beside, beyond / loop, should)
    mappings = int(loops[0]["mappings"])
    with tempfile.TemporaryDirectory() as scratch:
        command = [PROGRAM, "collect", *core, "-o", str(Path(scratch) / "watched.ksm")]
        yield _of_memory("collect --core", peak_of(command), mappings, _COLLECT_BYTES)


def _of_procfs(gib: float, rounds: int) -> Iterator[Ratio]:
    for name, huge in (("small", False), ("huge", True)):
        found = measure_procfs(gib, rounds, huge=huge)
        yield Ratio(
            f"collect --procfs beyond start-up, {name} pages",
            f"{found.beyond:.1f} GB/s",
            f"copying and hashing alone, two cores: {found.both:.1f} GB/s",
            found.beyond / found.both,
            "at least 0.60",
        )
        mappings = int(found.giga * 1e9 / 4096)
        name = f"collect --procfs, {name} pages"
        yield _of_memory(name, found.peak, mappings, _COLLECT_BYTES)


def _of_running(gib: float, rounds: int) -> Iterator[Ratio]:
    live, qemu = measure_running(gib, rounds)
    loop = f"a plain loop over /proc/kcore: {live.loop:.2f} s"
    for workers, seconds in ((1, live.one), (2, live.two)):
        name = f"collect --live --workers {workers}, in a guest"
        yield Ratio(name, f"{seconds:.2f} s", loop, seconds / live.loop, "")
    one = f"with one: {live.one:.2f} s"
    name = "collect --live: how much faster with two workers"
    yield Ratio(name, f"{live.two:.2f} s", one, live.one / live.two, "at least 1.70")
    name = "two plain loops over /proc/kcore at once, in a guest"
    yield Ratio(name, f"{live.loops:.2f} s", loop, live.loop / live.loops, "")
    alone = f"copying and hashing as much, one core: {qemu.loop:.2f} s"
    yield Ratio("collect --qemu", f"{qemu.ours:.2f} s", alone, qemu.ours / qemu.loop, "")


def _of_snapshots(millions: tuple[int, int], rounds: int) -> Iterator[Ratio]:
    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "bench.ksm"
        for mappings in (_FEW, *(number * _MILLION for number in millions)):
            write_snapshot(gathered(mappings), path, replace=True)
            command = [PROGRAM, "predict", str(path), "--json"]
            seconds.append(best([run(command) for _ in range(rounds)]).seconds)
        start_up, few, many = seconds
        fewer, more = millions
        exponent = math.log((many - start_up) / (few - start_up), more / fewer)
        name = f"predict beyond start-up: exponent from {fewer} to {more} million mappings"
        beside = f"{fewer} million: {few:.2f} s; start-up: {start_up:.2f} s"
        yield Ratio(name, f"{many:.2f} s", beside, exponent, "at most 1.05")
        for answer in ("predict", "report", "advise"):
            found = peak_of([PROGRAM, answer, str(path), "--json"])
            name = f"{answer} --json, {more} million mappings"
            yield _of_memory(name, found, more * _MILLION, _ANSWER_BYTES)


def _of_memory(name: str, peak: Peak, mappings: int, each_bytes: int) -> Ratio:
    """Anonymous memory at the peak beside what is promised; of which worker how much."""
    limit = _FIXED_BYTES + each_bytes * mappings
    of_workers = " + ".join(
        f"{size / _MIB:.0f}" for size in sorted(peak.of_workers.values(), reverse=True)
    )
    each = (peak.anonymous_bytes - _FIXED_BYTES) / mappings
    return Ratio(
        f"memory of {name}",
        f"{peak.anonymous_bytes / _MIB:.0f} MiB ({of_workers}): 200 MiB and {each:.0f} bytes each",
        f"200 MiB and {each_bytes} bytes for each of {mappings:,} mappings",
        peak.anonymous_bytes / limit,
        "at most 1.00",
    )

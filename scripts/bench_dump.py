"""A whole run on a dump against the plain drgn script and against hashing alone."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.bench_measure import Run, best, median_ratio, peak_of, run, warm
from tests.lab.guest import Guest
from tests.lab.kernels import Kernel, cache_directory, ensure_tools, fetch_kernel
from tests.lab.programs import build
from tests.lab.workload import Session, Workload

_REPOSITORY = Path(__file__).parents[1]
_BIN = Path(sys.executable).parent
PROGRAM = str(_BIN / "ksm-estimator")
_SET_UP_SECONDS = 3600.0
_PAGES_PER_GIB = 262_144
_FILLED = 0.67  # of the guest's memory
_SHARED_BY_FORK = 0.04  # of the frames: by a controller and its workers
_WORKERS = 12
_LONELY_PAGES = 20_000  # each a VMA of its own


@dataclass(frozen=True)
class _Measured:
    frames: int
    mappings: int
    run_seconds: float
    json_seconds: float  # run --json
    separate_seconds: float  # collect, then predict
    near_ratio: str  # collect --near / collect: seconds, CPU seconds
    start_up_seconds: float
    hashing_seconds: float
    hashing_again_seconds: float
    plain_seconds: float
    anonymous_bytes: int

    @property
    def beyond_seconds(self) -> float:
        """Of the run, without its start-up."""
        return self.run_seconds - self.start_up_seconds

    def row(self) -> list[str]:
        """The columns ``_HEADINGS``."""
        limit_bytes = 200 * 1024**2 + 100 * self.mappings
        return [
            f"{self.frames:,}",
            f"{self.mappings:,}",
            f"{self.run_seconds:.2f}",
            f"{self.json_seconds:.2f}",
            f"{self.separate_seconds:.2f}",
            f"{self.separate_seconds / (self.run_seconds + self.start_up_seconds):.2f}",
            self.near_ratio,
            f"{self.start_up_seconds:.2f}",
            f"{self.hashing_seconds:.2f}",
            f"{self.beyond_seconds / self.hashing_seconds:.2f}",
            f"{(self.json_seconds - self.start_up_seconds) / self.hashing_seconds:.2f}",
            f"{self.hashing_again_seconds:.2f}",
            f"{self.beyond_seconds / self.hashing_again_seconds:.2f}",
            f"{self.plain_seconds:.1f}",
            f"{self.plain_seconds / self.run_seconds:.1f}",
            f"{self.frames * 4096 / self.beyond_seconds / 1e9:.1f}",
            f"{self.anonymous_bytes / 1024**2:.0f}",
            f"{limit_bytes / 1024**2:.0f}",
        ]


_HEADINGS = (
    *("frames", "mappings", "run s", "run --json s", "collect, predict s"),
    *("those / (run + start-up)", "collect --near / collect: s, CPU s", "start-up s", "hashing s"),
    *("beyond start-up / hashing", "the same, --json", "hashing mapped pages s", "beyond / that"),
    *("plain s", "plain / run", "GB/s", "anonymous MiB", "limit MiB"),
)


def bench_dump(gib: float, rounds: int) -> None:
    """Print the table for one dump of ``gib``, and for one with a quarter of its frames."""
    ensure_tools()
    kernel = fetch_kernel("6.12")
    table = Table(title=f"ksm-estimator run --core, a guest of {gib:g} GiB")
    for column in ("", *_HEADINGS):
        table.add_column(column, justify="right" if column else "left")
    found: dict[str, list[_Measured]] = {"QEMU": [], "kdump ELF": []}
    for scale, name in ((0.25, "a quarter"), (1.0, "all")):
        with dumped(kernel, fork_server(gib * scale)) as vmcore:
            for kind, of_kind in found.items():
                if kind == "kdump ELF":
                    _give_direct_map_addresses(vmcore, kernel)
                of_kind.append(_measure(vmcore, kernel, rounds))
                table.add_row(f"{name}, {kind}", *of_kind[-1].row())
    console = Console(width=210)
    console.print(table)
    for kind, (quarter, whole) in found.items():
        more = whole.frames / quarter.frames
        longer = whole.beyond_seconds / quarter.beyond_seconds
        console.print(f"{kind}: {more:.1f} times the frames, {longer:.1f} times beyond start-up")


def _measure(vmcore: Path, kernel: Kernel, rounds: int) -> _Measured:
    core = ["--core", str(vmcore), "--symbols", str(kernel.vmlinux)]
    texts, jsons, collects, nears, separate, starts = [], [], [], [], [], []
    hashing, plain = [], []
    for _ in range(rounds):
        warm(vmcore)
        texts.append(run([PROGRAM, "run", *core]))
        jsons.append(run([PROGRAM, "run", *core, "--json"]))
        with tempfile.TemporaryDirectory() as scratch:
            snapshots = [str(Path(scratch) / name) for name in ("usual.ksm", "near.ksm")]
            collects.append(run([PROGRAM, "collect", *core, "-o", snapshots[0]]))
            nears.append(run([PROGRAM, "collect", *core, "--near", "-o", snapshots[1]]))
            predict = run([PROGRAM, "predict", snapshots[0]]).seconds
            separate.append(collects[-1].seconds + predict)
        starts.append(run([sys.executable, "-c", START_UP, str(vmcore), str(kernel.vmlinux)]))
        hashing.append(hash_alone(vmcore, kernel))
    for _ in range(min(rounds, 2)):
        warm(vmcore)
        command = [str(_BIN / "drgn"), "-q", "-c", str(vmcore), "-s", str(kernel.vmlinux)]
        plain.append(run([*command, str(_REPOSITORY / "scripts" / "plain_drgn.py")]))
    facts = hashing[0]
    return _Measured(
        frames=int(facts["frames"]),
        mappings=int(facts["mappings"]),
        run_seconds=best(texts).seconds,
        json_seconds=best(jsons).seconds,
        separate_seconds=min(separate),
        near_ratio=median_ratio(nears, collects),
        start_up_seconds=best(starts).seconds,
        hashing_seconds=min(h["seconds"] for h in hashing),
        hashing_again_seconds=min(h["again_seconds"] for h in hashing),
        plain_seconds=best(plain).seconds,
        anonymous_bytes=peak_of([PROGRAM, "run", *core, "--json"]).anonymous_bytes,
    )


START_UP = """
import sys
from estimator.cli import one_run
one_run.prepare()
from pathlib import Path
import estimator.kernel.collect, estimator.collect.hashing
import estimator.ksm.predict, estimator.collect.workers
import estimator.kernel.page_array, estimator.kernel.vma_names, estimator.kernel.pagetable
import estimator.kernel.processes, estimator.kernel.ksm_settings, estimator.kernel.stable_tree
from estimator.kernel.core import open_core
open_core(Path(sys.argv[1]), [Path(sys.argv[2])])
one_run.leave(0)
"""

_HASH = """
import json, sys, time
from itertools import chain
from pathlib import Path
import numpy as np
from xxhash import xxh3_64_intdigest
from estimator.kernel.collect import collect_core
from estimator.kernel.dump.file import inspect
from estimator.kernel.memory.intervals import runs
core = Path(sys.argv[1])
snapshot = collect_core(core, [Path(sys.argv[2])], seed=0)
pfns = snapshot.frames["pfn"].to_numpy()
file, parts = np.asarray(np.memmap(core, np.uint8, "r")), []
for load in inspect(core).loads:
    first, count = int(load["paddr"]) // 4096, int(load["filesz"]) // 4096
    rows = file[int(load["offset"]) :][: count * 4096].reshape(-1, 4096)
    mine = pfns[np.searchsorted(pfns, first) : np.searchsorted(pfns, first + count)] - first
    for start, stop in runs(mine, 1 << 40):
        parts.append(rows[int(mine[start]) :][: stop - start])
assert sum(map(len, parts)) == len(pfns)
seconds = []
for _ in range(2):  # the second time all pages are mapped already
    started = time.perf_counter()
    hashes = np.fromiter(map(xxh3_64_intdigest, chain.from_iterable(parts)), np.uint64, len(pfns))
    seconds.append(time.perf_counter() - started)
assert (hashes == snapshot.frames["hash"].to_numpy(np.uint64)).all()
facts = {"frames": len(pfns), "mappings": len(snapshot.mappings)}
print(json.dumps(facts | {"seconds": seconds[0], "again_seconds": seconds[1]}))
"""


def hash_alone(vmcore: Path, kernel: Kernel) -> dict[str, float]:
    """Hashing the same frames in one loop on one core, over the mapped file; and in another."""
    facts: dict[str, float] = json.loads(
        run([sys.executable, "-c", _HASH, str(vmcore), str(kernel.vmlinux)]).output
    )
    return facts


def fork_server(gib: float) -> Workload:
    """Workers that share pages by fork, by content and not at all, in a guest of ``gib``."""
    frames = int(gib * _PAGES_PER_GIB * _FILLED)
    preloaded = int(frames * _SHARED_BY_FORK)
    own = (frames - preloaded) // _WORKERS
    script = f"""
        comm controller
        merge-any 1
        map preloaded {preloaded}
        fill preloaded list 1
        fork {_WORKERS}
            comm worker
            map identical {own * 3 // 4}
            fill identical list 2
            map unique {own // 4}
            fill unique own 4
        end
    """
    return Workload("bench", (script,), memory_mib=int(gib * 1024), thp="never")


@contextmanager
def dumped(kernel: Kernel, workload: Workload) -> Iterator[Path]:
    """The vmcore of a frozen workload; deleted afterwards."""
    console = Console(stderr=True)
    out = cache_directory() / "bench"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        vmcore = Path(scratch) / "vmcore"
        files = {f"/bin/{name}": build(name, kernel) for name in ("actor", "probe")}
        console.print(f"filling a guest of {workload.memory_mib} MiB ...")
        with Guest(kernel, memory_mib=workload.memory_mib, files=files) as guest:
            session = Session(guest, workload)
            session.set_up()
            for number, script in enumerate(workload.scripts, 1):
                guest.write_file(f"/tmp/script{number}", script)
                command = f"actor start /tmp/script{number} {number}"
                guest.run(command, timeout_seconds=_SET_UP_SECONDS)
            console.print("dumping it ...")
            guest.dump(vmcore)
        os.sync()  # or it is written back while times are measured
        yield vmcore


def _give_direct_map_addresses(vmcore: Path, kernel: Kernel) -> None:
    """Make a QEMU dump like a kdump's: p_vaddr in the direct map, so that drgn walks no tables."""
    from estimator.kernel.core import open_core

    direct_map = open_core(vmcore, [kernel.vmlinux]).memory.direct_map
    with vmcore.open("r+b") as file:
        header = file.read(64)
        table, count = (
            int.from_bytes(header[32:40], "little"),
            int.from_bytes(header[56:58], "little"),
        )
        for number in range(count):
            place = table + 56 * number
            file.seek(place)
            program = file.read(56)
            if int.from_bytes(program[:4], "little") == 1:
                physical = int.from_bytes(program[24:32], "little")
                file.seek(place + 16)
                file.write((direct_map + physical).to_bytes(8, "little"))


def bench_crowded(gib: float, rounds: int) -> None:
    """Print the cost per frame of ``gib`` in one process and in a crowd."""
    ensure_tools()
    kernel = fetch_kernel("6.12")
    pages = int(gib * _PAGES_PER_GIB)
    one = f"map a {pages}\nfill a own 1"
    many = f"fork 500\nmap a {(pages - _LONELY_PAGES) // 500}\nfill a own 1\nend"
    workloads = {
        "one process, one VMA": (one,),
        "1 TiB reserved besides": (f"map hole 268435456 sparse\n{one}",),
        "500 processes, 20,000 VMAs of one page": (
            many,
            f"map a {_LONELY_PAGES}\nfill a own 1\nstripes a",
        ),
    }
    table = Table(title="Crowded address spaces")
    for column in ("", "frames", "beyond start-up s", "µs per frame", "against one process"):
        table.add_column(column, justify="right" if column else "left")
    with ExitStack() as stack:
        dumps = {
            name: stack.enter_context(
                dumped(
                    kernel,
                    Workload("bench", scripts, memory_mib=int(gib * 1024) + 1024, thp="never"),
                )
            )
            for name, scripts in workloads.items()
        }
        ours: dict[str, list[Run]] = {name: [] for name in dumps}
        starts: list[Run] = []  # as long for all: it is the same kernel
        for _ in range(rounds):  # side by side: how fast the machine is changes
            for name, vmcore in dumps.items():
                warm(vmcore)
                core = ["--core", str(vmcore), "--symbols", str(kernel.vmlinux)]
                ours[name].append(run([PROGRAM, "run", *core, "--json"]))
                command = [sys.executable, "-c", START_UP, str(vmcore), str(kernel.vmlinux)]
                starts.append(run(command))
    first = 0.0
    for name in dumps:
        frames = _frames(ours[name][0])
        beyond = best(ours[name]).seconds - best(starts).seconds
        first = first or beyond / frames
        row = (f"{frames:,}", f"{beyond:.2f}", f"{beyond / frames * 1e6:.2f}")
        table.add_row(name, *row, f"{beyond / frames / first:.2f}")
    Console(width=150).print(table)


def _frames(finished: Run) -> int:
    return int(json.loads(finished.output)["physical"]["frames_before"])

"""A compressed dump: one worker, two workers, and reading the same frames through libkdumpfile."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.bench_dump import START_UP, dumped
from scripts.bench_measure import best, run
from tests.lab.kernels import Kernel, cache_directory, ensure_tools, fetch_kernel
from tests.lab.makedumpfile import headers_where_makedumpfile_looks, makedumpfile
from tests.lab.recompress import recompress
from tests.lab.workload import Workload

_BIN = Path(sys.executable).parent
_ONE_CORE = ("taskset", "--cpu-list", "0")
_PAGES_PER_GIB = 262_144
_FILLED = 0.67  # of the guest's memory
_PROCESSES = 12
_HEADINGS = (
    *("file MiB", "frames", "loop s", "two loops s", "loop / two", "start-up s"),
    *("run, 1 worker s", "2 workers s", "1 / 2", "1 / 2 beyond start-up", "ours / loop"),
)


def bench_compressed(gib: float, rounds: int) -> None:
    """Print the table for a guest of ``gib``, its dump compressed in several ways."""
    ensure_tools()
    kernel = fetch_kernel("6.12")
    table = Table(title=f"ksm-estimator run --core, a compressed dump of a guest of {gib:g} GiB")
    for column in ("", *_HEADINGS):
        table.add_column(column, justify="right" if column else "left")
    with (
        dumped(kernel, _compressible(gib)) as elf,
        tempfile.TemporaryDirectory(dir=cache_directory() / "bench") as scratch,
    ):
        headers_where_makedumpfile_looks(elf)
        frames = Path(scratch) / "frames.npy"
        run([sys.executable, "-c", _FRAMES, str(elf), str(kernel.vmlinux), str(frames)])
        for codec in ("lzo", "zlib", "zstd"):
            core = Path(scratch) / codec
            if codec == "zstd":  # Debian's makedumpfile is built without it
                recompress(Path(scratch) / "zlib", core, codec)
            else:
                makedumpfile("-l -d 1" if codec == "lzo" else "-c -d 1", elf, core)
            table.add_row(codec, *_measure(core, kernel, frames, rounds))
    Console(width=150).print(table)


def _measure(core: Path, kernel: Kernel, frames: Path, rounds: int) -> list[str]:
    command = [str(_BIN / "ksm-estimator"), "run", "--json"]
    command += ["--core", str(core), "--symbols", str(kernel.vmlinux)]
    start = [sys.executable, "-c", START_UP, str(core), str(kernel.vmlinux)]
    starts, ones, twos, loops, halves = [], [], [], [], []
    for _ in range(rounds):
        starts.append(run(start))
        loops.append(_loop(core, frames, 1))
        halves.append(_loop(core, frames, 2))
        ones.append(run([*_ONE_CORE, *command]))
        twos.append(run(command))
    start_up, one, two = (best(runs).seconds for runs in (starts, ones, twos))
    (count, loop), (_, half) = min(loops), min(halves)
    return [
        f"{core.stat().st_size / 1024**2:,.0f}",
        f"{count:,}",
        f"{loop:.2f}",
        f"{half:.2f}",
        f"{loop / half:.2f}",
        f"{start_up:.2f}",
        f"{one:.2f}",
        f"{two:.2f}",
        f"{one / two:.2f}",
        f"{(one - start_up) / (two - start_up):.2f}",
        f"{(one - start_up - loop) / loop:+.0%}",
    ]


def _loop(core: Path, frames: Path, processes: int) -> tuple[int, float]:
    """How many frames there are, and the seconds until ``processes`` have read them all.

    Each opens the dump for itself and reads its share: the most that workers can gain here.
    """
    command = [sys.executable, "-c", _LOOP, str(core), str(frames), str(processes)]
    readers = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    found = [reader.communicate()[0].split() for reader in readers]
    return sum(int(count) for count, _ in found), max(float(seconds) for _, seconds in found)


_FRAMES = """
import sys
from pathlib import Path
import numpy as np
from estimator.kernel.collect import collect_core
np.save(sys.argv[3], collect_core(Path(sys.argv[1]), [Path(sys.argv[2])]).frames["pfn"].to_numpy())
"""

_LOOP = """
import sys, time
import numpy as np
from drgn import Program
processes, number = int(sys.argv[3]), int(sys.argv[4])
frames = np.array_split(np.load(sys.argv[2]), processes)[number].tolist()
prog = Program()
prog.set_core_dump(sys.argv[1])
read = prog.read
started = time.perf_counter()
for pfn in frames:
    read(pfn << 12, 4096, True)
print(len(frames), time.perf_counter() - started)
"""


def _compressible(gib: float) -> Workload:
    own = int(gib * _PAGES_PER_GIB * _FILLED) // _PROCESSES // 2
    script = f"""
        fork {_PROCESSES}
            map identical {own}
            fill identical list 1
            thin identical
            map unique {own}
            fill unique own 2
            thin unique
        end
    """
    return Workload("bench", (script,), memory_mib=int(gib * 1024), thp="never")

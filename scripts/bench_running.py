"""`--live` in a guest beside a plain loop over /proc/kcore; `--qemu` beside copying its memory."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from rich.console import Console
from rich.table import Table
from xxhash import xxh3_64_intdigest

from estimator.collect.page_room import PageRoom
from estimator.kernel.collect import gather
from estimator.kernel.running import open_qemu
from tests.lab.kernels import ensure_tools, fetch_kernel
from tests.lab.running import Running, running
from tests.lab.workload import Workload

_PAGE_BYTES = 4096
_PAGES_PER_GIB = 262_144
_SYSTEM_MIB = 768  # Debian, Python and what collecting takes
_COPIED_PAGES = 256


@dataclass(frozen=True)
class Live:
    """Seconds in the guest beyond start-up: with one and two workers, and of the plain loop.

    ``loops``: of two of these at once, half of the frames each: what two cores of it can gain.
    """

    frames: int
    one: float
    two: float
    loop: float
    loops: float


@dataclass(frozen=True)
class Qemu:
    """Seconds beyond start-up of ``--qemu``, and of copying and hashing as much in one loop."""

    frames: int
    ours: float
    loop: float


def bench_running(gib: float, rounds: int) -> None:
    """Print both for a guest with ``gib`` of anonymous memory of its own; the best of each."""
    live, qemu = measure_running(gib, rounds)
    table = Table(title=f"A guest with {gib:g} GiB of anonymous memory, beyond start-up")
    for column in ("", "frames", "s", "plain loop s", "that / ours"):
        table.add_column(column, justify="right" if column else "left")
    for name, frames, ours, loop in (
        ("--live --workers 1", live.frames, live.one, live.loop),
        ("--live --workers 2", live.frames, live.two, live.loop),
        ("--qemu", qemu.frames, qemu.ours, qemu.loop),
    ):
        table.add_row(name, f"{frames:,}", f"{ours:.2f}", f"{loop:.2f}", f"{loop / ours:.2f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"--live: two workers are {live.one / live.two:.2f} times as fast as one")
    console.print(f"Two plain loops at once are {live.loop / live.loops:.2f} times as fast as one")


def measure_running(gib: float, rounds: int) -> tuple[Live, Qemu]:
    """What ``bench_running`` prints."""
    ensure_tools()
    kernel = fetch_kernel("6.12")
    pages = int(gib * _PAGES_PER_GIB)
    script = f"map own {pages}\nfill own own 1"
    workload = Workload("bench", (script,), memory_mib=int(gib * 1024) + _SYSTEM_MIB, thp="never")
    with (
        tempfile.TemporaryDirectory() as directory,
        running(workload, kernel, Path(directory), debian=True) as system,
    ):
        qemu = _qemu(system, kernel.vmlinux, rounds)
        return _live(system, rounds), qemu


def _live(system: Running, rounds: int) -> Live:
    system.guest.write_file("/tmp/bench_live.py", _IN_GUEST)
    status, output = system.python(f"/tmp/bench_live.py {rounds}")
    if status:
        sys.exit(f"{output}bench: the guest's benchmark failed")
    return Live(**json.loads(output.splitlines()[-1]))


_IN_GUEST = """
import json, os, struct, sys, time
from pathlib import Path
import numpy as np
from xxhash import xxh3_64_intdigest
from estimator.kernel.collect import gather
from estimator.kernel.running import open_live

def ours(workers):
    started = time.perf_counter()
    found = gather(target, seed=0, workers=workers)
    return time.perf_counter() - started, found

def segments(kcore):
    header = os.pread(kcore, 64, 0)
    table, = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    for number in range(count):
        kind, _, offset, address, _, length = struct.unpack_from(
            "<IIQQQQ", os.pread(kcore, size, table + number * size))
        if kind == 1:
            yield address, address + length, offset

def loop(pfns, direct_map):
    started = time.perf_counter()
    kcore = os.open("/proc/kcore", os.O_RDONLY)
    loads = sorted(segments(kcore))
    hashes = []
    for pfn in pfns:
        address = direct_map + (pfn << 12)
        start, _, offset = next(s for s in loads if s[0] <= address < s[1])
        hashes.append(xxh3_64_intdigest(os.pread(kcore, 4096, offset + address - start), 0))
    return time.perf_counter() - started, hashes

def loops(pfns, direct_map):
    started = time.perf_counter()
    half = len(pfns) // 2
    child = os.fork()
    loop(pfns[half:] if child else pfns[:half], direct_map)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return time.perf_counter() - started

with open_live([Path("/symbols/vmlinux")]) as target:
    ours(1)  # imports and caches
    one, two, plain, both = [], [], [], []
    for _ in range(int(sys.argv[1])):
        seconds, _ = ours(2)
        two.append(seconds)
        seconds, found = ours(1)
        one.append(seconds)
        pfns = found.frames["pfn"][:].tolist()
        seconds, hashes = loop(pfns, target.memory.direct_map)
        plain.append(seconds)
        both.append(loops(pfns, target.memory.direct_map))
    same = np.array(hashes, np.uint64) == np.ma.getdata(found.frames["hash"][:])
    assert same.mean() > 0.9, same.mean()  # the others are of processes that go on
found = {"one": min(one), "two": min(two), "loop": min(plain), "loops": min(both)}
print(json.dumps({"frames": len(pfns), **found}))
"""


def _qemu(system: Running, vmlinux: Path, rounds: int) -> Qemu:
    ours, loops, frames = [], [], 0
    pid = _process_with(str(system.monitor))
    with open_qemu(str(system.monitor), [vmlinux]) as target:
        gather(target, seed=0)  # imports
        for _ in range(rounds):
            started = time.perf_counter()
            frames = len(gather(target, seed=0).frames["pfn"])
            ours.append(time.perf_counter() - started)
            loops.append(_copy_and_hash(pid, frames))
    return Qemu(frames, min(ours), min(loops))


def _process_with(argument: str) -> int:
    """The child of ours that has ``argument`` in its command line."""
    own = os.getpid()
    children = map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())
    named = (pid for pid in children if argument in Path(f"/proc/{pid}/cmdline").read_text())
    return next(named)


def _copy_and_hash(pid: int, pages: int) -> float:
    """Seconds for so many ``pages`` of the guest's memory in one loop on one core."""
    maps = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-p", Path(f"/proc/{pid}/maps").read_text(), re.M)
    start = max(((int(b, 16) - int(a, 16)), int(a, 16)) for a, b in maps)[1]
    room = PageRoom(_COPIED_PAGES, _PAGE_BYTES)
    file = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    started = time.perf_counter()
    for first in range(0, pages, _COPIED_PAGES):
        count = min(_COPIED_PAGES, pages - first)
        os.preadv(file, [room.memory[: count * _PAGE_BYTES]], start + first * _PAGE_BYTES)
        for _ in map(xxh3_64_intdigest, room.whole[:count], repeat(0)):
            pass
    seconds = time.perf_counter() - started
    os.close(file)
    return seconds

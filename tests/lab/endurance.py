"""Collections with --procfs in a row, by one process, of processes that never hold still."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pandas as pd
from xxhash import xxh3_64_intdigest

from estimator.collect.memory_room import own_bytes
from estimator.procfs.collect import collect_procfs
from estimator.snapshot.checks import check_snapshot
from estimator.snapshot.flags import FrameKind, MappingFlag
from estimator.snapshot.snapshot import Snapshot
from tests.lab.here.machine import borrowed, refusal
from tests.lab.kernels import cache_directory
from tests.lab.programs import build
from tests.lab.test_churn import MOST_GROWTH, check_contents
from tests.lab.test_replaced_words import check_rows

FROZEN_PAGES = 300  # and as many that ksmd can merge
FROZEN = f"""
import ctypes, mmap, signal
area = mmap.mmap(-1, {FROZEN_PAGES} * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
for page in range({FROZEN_PAGES}):
    area[page * 4096:(page + 1) * 4096] = (b"frozen%06d" % page * 342)[:4096]
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
input()  # until it is known that nobody else has opted in
equal = mmap.mmap(-1, {FROZEN_PAGES} * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
equal.madvise(mmap.MADV_MERGEABLE)
equal[:] = b"same" * ({FROZEN_PAGES} * 1024)
signal.pause()
"""
FROZEN_HASHES = [
    xxh3_64_intdigest((b"frozen%06d" % page * 342)[:4096]) for page in range(FROZEN_PAGES)
]
KSM_SETTINGS = {"run": "1", "pages_to_scan": "2000", "sleep_millisecs": "20"}
SWAPS, SWAP_BYTES = Path("/proc/swaps"), 256 << 20
PAGE = """\
# {collections} collections under churn

Written by `./scripts/churn --collections {collections} --workers {workers}` at commit {commit},
on {release}. One process collects with `--procfs` again and again while {workers} others, and
their children, fork, exec, exit, map, unmap, collapse to huge pages, page out and call
`madvise(MADV_MERGEABLE)` as fast as they can, beside one that holds still. All are in a pid
namespace of their own. In each snapshot ids and the order of rows are checked, every known page of
the moving processes holds what one of them writes, and no page of the one that holds still is
missing or has another content; it may be unknown, if the kernel moved it meanwhile.

| | |
| --- | ---: |
| collections | {collections} |
| with an error or a garbage row | {failed} |
| processes seen, in all | {processes} |
| mappings seen, in all | {mappings} |
| of these in huge pages | {huge} |
| of KSM's | {merged} |
| swap and migration entries | {swapped} |
| pages that kept changing while they were read: unknown | {changed} |
| unknown pages of the process that holds still: the kernel moves pages | {moved} |
| processes that ended while they were read: left out | {lost} |
| memory of the collecting process, not backed by files: after a tenth | {first_kib} KiB |
| after half | {half_kib} KiB |
| at the end | {last_kib} KiB |
| open files at the beginning, at the end | {first_files}, {last_files} |
| seconds for a collection, median and longest | {median:.2f}, {longest:.2f} |

ksmd was running; swap was in use.
"""


@dataclass
class Totals:
    """Sums over all snapshots."""

    processes: int = 0
    mappings: int = 0
    huge: int = 0
    merged: int = 0
    swapped: int = 0
    changed: int = 0
    lost: int = 0

    def add(self, snapshot: Snapshot) -> None:
        """Count what is in one more."""
        self.processes += len(snapshot.processes)
        self.mappings += len(snapshot.mappings)
        self.huge += int(np.count_nonzero(snapshot.mappings["flags"].to_numpy() & MappingFlag.HUGE))
        self.merged += int((snapshot.frames["kind"] == FrameKind.KSM).sum())
        self.swapped += int(snapshot.vmas["swap_pages"].sum())
        self.changed += snapshot.info["unknown"]["changed_pages"]
        self.lost += snapshot.info["unknown"]["processes"]


def check(snapshot: Snapshot, frozen: tuple[int, int]) -> int:
    """Raise AssertionError or EstimatorError for a row that can't be.

    ``frozen``: pid and address of what holds still. Its pages are there with their content, or
    unknown, if the kernel moved them meanwhile (compaction): returns how many are.
    """
    check_snapshot("the snapshot", snapshot)
    check_rows(snapshot)
    check_contents(snapshot)
    pid, address = frozen
    rows = snapshot.mappings.join(snapshot.vmas[["mm_id", "start"]], on="vma_id")
    rows = rows.join(snapshot.processes["pid"], on="mm_id")
    rows = rows.join(snapshot.frames["hash"], on="frame_id")
    page = rows["start"].to_numpy() // 4096 + rows["page_index"].to_numpy(np.uint64)
    place = page.astype(np.int64) - address // 4096
    own = (rows["pid"] == pid).to_numpy() & (place >= 0) & (place < FROZEN_PAGES)
    found = dict(zip(place[own].tolist(), rows["hash"][own].tolist(), strict=True))
    known = {place: value for place, value in found.items() if value is not pd.NA}
    wrong = [place for place, value in known.items() if value != FROZEN_HASHES[place]]
    assert not wrong, f"other contents on pages {wrong} of the process that holds still"
    owners = snapshot.vmas[snapshot.vmas["mm_id"].isin(rows["mm_id"][own])]
    away = int(owners["swap_pages"].sum())  # migration entries, too
    assert len(found) + away >= FROZEN_PAGES, f"{len(found)} pages of the process that holds still"
    return FROZEN_PAGES - len(known)


@contextlib.contextmanager
def swap() -> Iterator[None]:
    """A file of its own to swap to, unless the machine swaps already."""
    if len(SWAPS.read_text().splitlines()) > 1:
        yield
        return
    with tempfile.NamedTemporaryFile(dir=cache_directory(), prefix="swap.") as file:
        os.posix_fallocate(file.fileno(), 0, SWAP_BYTES)
        subprocess.run(["mkswap", file.name], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["swapon", file.name], check=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", file.name], check=True)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def endure(collections: int, frozen: tuple[int, int]) -> tuple[dict[str, int | float], bool]:
    """The numbers of ``PAGE``, and whether all went well."""
    totals, failed, moved = Totals(), 0, 0
    sizes, seconds = [], []
    first_files = open_files()
    for number in range(collections):
        started = time.monotonic()
        try:
            snapshot = collect_procfs(seed=0, progress=lambda *_: None, pace=lambda _: None)
            seconds.append(time.monotonic() - started)
            moved += check(snapshot, frozen)
            totals.add(snapshot)
            del snapshot
        except Exception:  # whatever it is, it is counted
            failed += 1
            traceback.print_exc()
        sizes.append(own_bytes())
        if number % 50 == 49:
            print(f"{number + 1}: {sizes[-1] >> 10} KiB, {failed} failed", file=sys.stderr)
    tenth, half = sizes[collections // 10], sizes[collections // 2]
    numbers = vars(totals) | {
        "failed": failed,
        "moved": moved,
        "first_kib": tenth >> 10,
        "half_kib": half >> 10,
        "last_kib": sizes[-1] >> 10,
        "first_files": first_files,
        "last_files": open_files(),
        "median": statistics.median(seconds),
        "longest": max(seconds),
    }
    grown = sizes[-1] > (1 + MOST_GROWTH) * half or open_files() > first_files
    return numbers, not failed and not grown


def main() -> int:
    """Run in a pid namespace of its own: what churns is then all that is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collections", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    frozen = subprocess.Popen([sys.executable, "-c", FROZEN], stdin=PIPE, stdout=PIPE)
    try:
        assert frozen.stdin is not None
        assert frozen.stdout is not None
        address = int(frozen.stdout.readline())
        if reason := refusal():
            print(f"churn: {reason}", file=sys.stderr)
            return 3
        frozen.stdin.write(b"\n")
        frozen.stdin.flush()
        with swap(), borrowed(**KSM_SETTINGS):
            subprocess.run(["nice", build("churn"), str(arguments.workers)], check=True)
            numbers, well = endure(arguments.collections, (frozen.pid, address))
    finally:
        frozen.kill()
    page = PAGE.format(
        collections=arguments.collections,
        workers=arguments.workers,
        commit=arguments.commit,
        release=platform.release(),
        **numbers,
    )
    if arguments.out:
        arguments.out.write_text(page)
    else:
        print(page)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())

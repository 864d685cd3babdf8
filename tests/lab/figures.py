"""Forecasts for the settings that Meta and KubeVirt published, through the command itself."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from estimator.snapshot.flags import FrameFlag, FrameKind
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from scripts.bench_predict import snapshot_of
from tests.lab.instagram import as_published, synthetic

SLEEP_MILLISECS = 20
GIB_PAGES = 1 << 18
VM_GIB = 4
NODE_GIB = (16, 96)
"""Nodes of which all memory is made up; of larger ones a scan takes in proportion."""
_ZERO_IN = 4  # of so many pages of a virtual machine one is zero-filled


@dataclass(frozen=True)
class ScanRow:
    """One full scan of a forecast: pages visited and skipped in it, seconds and CPU seconds of it.

    ``seconds`` and ``cpu_seconds``: if a page costs the least and the most.
    """

    full_scan: int
    pages_to_scan: int
    pages: int
    skipped: int
    batches: int
    seconds: tuple[float, float]
    cpu_seconds: tuple[float, float]

    @property
    def skipped_share(self) -> float:
        """Of all candidates."""
        return self.skipped / (self.pages + self.skipped)

    @property
    def cpu_share(self) -> tuple[float, float]:
        """Of one CPU."""
        shares = [c / s for c, s in zip(self.cpu_seconds, self.seconds, strict=True)]
        return shares[0], shares[1]


def scan_rows(answer: dict[str, Any]) -> list[ScanRow]:
    """The scans of ``forecast --json``, whose numbers are sums from the start, one by one."""
    rows = []
    before: dict[str, Any] = {"pages_scanned": 0, "pages_skipped": 0}
    since = {"seconds": [0.0, 0.0], "cpu_seconds": [0.0, 0.0]}
    for scan in answer["scans"]:
        until = {name: scan["bounds"].get(name, [scan[name]] * 2) for name in since}
        seconds, cpu_seconds = (
            (until[name][0] - since[name][0], until[name][1] - since[name][1]) for name in since
        )
        pages, skipped = (scan[name] - before[name] for name in ("pages_scanned", "pages_skipped"))
        visits = scan["full_scans"], scan["pages_to_scan"], pages, skipped, scan["batches"]
        rows.append(ScanRow(*visits, seconds, cpu_seconds))
        before, since = scan, until
    return rows


def skipped_until(rows: Sequence[ScanRow]) -> list[float]:
    """The part of all visits since the start that smart_scan saved, after each scan."""
    skipped = np.cumsum([row.skipped for row in rows])
    every = np.cumsum([row.skipped + row.pages for row in rows])
    return [float(share) for share in skipped / every]


def cost_of(cpu_share: float, pages_to_scan: int, sleep_millisecs: int = SLEEP_MILLISECS) -> float:
    """Seconds per page if ksmd takes so much of a CPU: it sleeps after each batch, not besides."""
    return cpu_share / (1 - cpu_share) * sleep_millisecs / 1000 / pages_to_scan


class Forecasts:
    """Answers of ``ksm-estimator forecast --json``, kept in a directory beside their snapshots."""

    def __init__(self, keep: Path) -> None:
        self._keep = keep

    def snapshot(self, name: str) -> Path:
        """The snapshot ``instagram``, ``guest`` or ``N-gib``; it is made if it is not there."""
        path = self._keep / f"{name}.ksm"
        if not path.exists():
            made = synthetic(as_published()) if name == "instagram" else node(int(name[:-4]))
            write_snapshot(made, path)
        return path

    def ask(self, name: str, *options: object) -> dict[str, Any]:
        """The forecast for a snapshot; it exits with 0, or CalledProcessError."""
        command = ["ksm-estimator", "forecast", str(self.snapshot(name)), "--json", "--quiet"]
        command += map(str, options)
        key = hashlib.sha256(" ".join(command[2:]).encode()).hexdigest()[:16]
        kept = self._keep / f"forecast-{key}.json"
        if not kept.exists():
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            kept.write_bytes(done.stdout)
        answer: dict[str, Any] = json.loads(kept.read_text())
        return answer


def node(gib: int) -> Snapshot:
    """Virtual machines that take all of a node: a quarter of their pages is zero-filled."""
    machines, each = gib // VM_GIB, VM_GIB * GIB_PAGES
    frames = machines * each
    pfn = np.arange(frames, dtype=np.uint64) + np.uint64(1_000)
    zero = pfn % np.uint64(_ZERO_IN) == 0
    hashes = (pfn + np.uint64(1 << 40)) * np.uint64(0x9E3779B97F4A7C15)
    hashes[zero] = np.uint64(1)
    small = FrameFlag.LRU | FrameFlag.SWAPBACKED
    mm_id = np.arange(machines, dtype=np.uint32)
    start = (mm_id.astype(np.uint64) + np.uint64(1)) << np.uint64(40)
    once = np.ones(frames, np.int32)
    return snapshot_of(
        processes={
            "mm_id": mm_id,
            "scan_order": mm_id.astype(np.int32),
            "pid": mm_id.astype(np.int32) + 1_000,
            "comm": ["qemu-kvm"] * machines,
            "cgroup": [f"/machine.slice/{n}" for n in mm_id],
            "merge_any": pd.array([False] * machines, dtype="boolean"),
            "sharing_pids": [[] for _ in mm_id],
            "start_time_ns": mm_id.astype(np.uint64),
        },
        vmas={
            "vma_id": mm_id,
            "mm_id": mm_id,
            "start": start,
            "end": start + np.uint64(each << 12),
            "name": [""] * machines,
            "mergeable": np.ones(machines, np.bool_),
            "compatible": np.ones(machines, np.bool_),
            "excluded_by": [None] * machines,
            "has_anon_vma": np.ones(machines, np.bool_),
        },
        mappings={
            "vma_id": np.repeat(mm_id, each),
            "page_index": np.tile(np.arange(each, dtype=np.uint64), machines),
            "frame_id": np.arange(frames, dtype=np.uint32),
        },
        frames={
            "pfn": pfn,
            "hash": pd.array(hashes, dtype="UInt64"),
            "kind": np.full(frames, FrameKind.ANONYMOUS, np.uint8),
            "flags": np.where(zero, small | FrameFlag.ZERO, small).astype(np.uint32),
            "head_pfn": pfn,
            "mapcount": once,
            "refcount": once,
            "folio_mapcount": once,
        },
    )


@dataclass(frozen=True)
class NodeScan:
    """A full scan of a node with one of KubeVirt's settings; 99 % is merged after so many.

    ``made_up``: its memory was; else the time is that of the largest node that was, in proportion.
    """

    gib: int
    pages_to_scan: int
    sleep_millisecs: int
    seconds: tuple[float, float]
    merged_after_scans: int
    made_up: bool


def node_scans(
    forecasts: Forecasts, settings: Sequence[tuple[int, int, int]]
) -> Iterator[NodeScan]:
    """A full scan for each (GiB, pages_to_scan, sleep_millisecs)."""
    for gib, pages_to_scan, sleep in settings:
        of = gib if gib in NODE_GIB else NODE_GIB[-1]
        options = ("--scope", "enabled", "--use-zero-pages", "--no-smart-scan", "--scans", 2)
        pace = ("--pages-to-scan", pages_to_scan, "--sleep", sleep)
        answer = forecasts.ask(f"{of}-gib", *options, *pace)
        low, high = scan_rows(answer)[-1].seconds
        seconds = low * gib / of, high * gib / of
        merged_after = answer["marks"][-1]["full_scan"]
        yield NodeScan(gib, pages_to_scan, sleep, seconds, merged_after, gib == of)


def virt_handler_sleep(gib: int, used: float) -> int:
    """sleep_millisecs as calculateNewRunSleepAndPages() in virt-handler sets it."""
    return max(10, math.floor(100 * 16 / (gib * used)))

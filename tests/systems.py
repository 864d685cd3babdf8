"""Small systems described in a few lines, as snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from estimator.snapshot import FrameFlag, Snapshot, Unknown

PAGE = 4096
ZERO = 0  # the content of a zero-filled page


@dataclass
class Area:
    """A VMA full of present anonymous pages.

    ``contents``: a number per page, equal for equal bytes. ``frames``: a name per page, equal
    where fork shares a frame; left out, every page has a frame of its own.
    """

    contents: list[int]
    name: str = "[heap]"
    frames: list[str | None] | None = None
    excluded_by: str | None = None
    mergeable: bool = True
    locked: bool = False
    unknown: Unknown = Unknown.HASHED


@dataclass
class Process:
    """A process with its VMAs."""

    comm: str
    areas: list[Area]
    cgroup: str = "/"
    uid: int = 0
    pid: int | None = None
    sched_policy: int = 0
    cmdline: str | None = None


@dataclass
class _Frames:
    rows: list[dict[str, Any]] = field(default_factory=list)
    by_name: dict[str, int] = field(default_factory=dict)

    def get(self, name: str | None, content: int, unknown: Unknown) -> int:
        if name is not None and name in self.by_name:
            frame_id = self.by_name[name]
            self.rows[frame_id]["mapcount"] += 1
            return frame_id
        frame_id = len(self.rows)
        if name is not None:
            self.by_name[name] = frame_id
        self.rows.append(
            {
                "hash": pd.NA if unknown else content,
                "unknown": int(unknown),
                "flags": int(FrameFlag.ZERO if content == ZERO and not unknown else 0),
                "mapcount": 1,
            }
        )
        return frame_id


def system(processes: list[Process], **ksm: int) -> Snapshot:
    """A snapshot of ``processes`` on a 6.12 kernel, with the KSM settings ``ksm``."""
    frames = _Frames()
    rows: list[dict[str, Any]] = []
    vmas: list[dict[str, Any]] = []
    mappings: list[tuple[int, int, int, int]] = []
    for mm_id, process in enumerate(processes):
        rows.append(_process_row(mm_id, process))
        for place, area in enumerate(process.areas):
            vma_id = len(vmas)
            vmas.append(_vma_row(vma_id, mm_id, place, area))
            names = area.frames or [None] * len(area.contents)
            for index, (content, name) in enumerate(zip(area.contents, names, strict=True)):
                frame_id = frames.get(name, content, area.unknown)
                mappings.append((vma_id, index, frame_id, 4))
    return Snapshot(
        info=_info(ksm),
        processes=pd.DataFrame(rows),
        vmas=pd.DataFrame(vmas),
        mappings=pd.DataFrame(
            np.array(mappings, np.uint32).reshape(-1, 4),
            columns=["vma_id", "page_index", "frame_id", "flags"],
        ).astype({"flags": np.uint8}),
        frames=_frame_table(frames.rows),
        stable_nodes=pd.DataFrame(
            {
                "node_id": np.zeros(0, np.uint32),
                "chain_id": np.zeros(0, np.int32),
                "pfn": np.zeros(0, np.uint64),
                "frame_id": pd.array([], dtype="UInt32"),
                "node": np.zeros(0, np.uint16),
                "live": np.zeros(0, np.bool_),
            }
        ),
        stable_items=pd.DataFrame(
            {
                "node_id": np.zeros(0, np.uint32),
                "mm_id": np.zeros(0, np.uint32),
                "address": np.zeros(0, np.uint64),
                "age": np.zeros(0, np.uint8),
                "checksum": np.zeros(0, np.uint32),
            }
        ),
    )


def _process_row(mm_id: int, process: Process) -> dict[str, Any]:
    pid = 1000 + mm_id if process.pid is None else process.pid
    return {
        "mm_id": np.uint32(mm_id),
        "scan_order": np.int32(mm_id),
        "pid": np.int32(pid),
        "comm": process.comm,
        "cmdline": process.cmdline,
        "uid": np.uint32(process.uid),
        "cgroup": process.cgroup,
        "merge_any": False,
        "threads": np.uint32(1),
        "sharing_pids": [],
        "sched_policy": np.uint8(process.sched_policy),
        "nice": np.int8(0),
        "start_time_ns": np.uint64(mm_id),
        "ksm_rmap_items": 0,
        "ksm_merging_pages": 0,
        "ksm_zero_pages": 0,
    }


def _vma_row(vma_id: int, mm_id: int, place: int, area: Area) -> dict[str, Any]:
    start = 0x5000_0000_0000 + place * 0x1_0000_0000
    return {
        "vma_id": np.uint32(vma_id),
        "mm_id": np.uint32(mm_id),
        "start": np.uint64(start),
        "end": np.uint64(start + len(area.contents) * PAGE),
        "vm_flags": np.uint64(0x2000 if area.locked else 0),
        "name": area.name,
        "mergeable": area.mergeable and area.excluded_by is None,
        "compatible": area.excluded_by is None,
        "excluded_by": area.excluded_by,
        "has_anon_vma": True,
        "locked": area.locked,
        "swap_pages": np.uint64(0),
        "zero_pages": np.uint64(0),
        "ksm_zero_pages": np.uint64(0),
        "nonpresent_pages": np.uint64(0),
        "unknown_pages": np.uint64(0),
    }


def _frame_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    count = len(rows)
    pfn = np.arange(count, dtype=np.uint64) + np.uint64(0x1000)
    mapcount = np.array([row["mapcount"] for row in rows], np.int32)
    return pd.DataFrame(
        {
            "pfn": pfn,
            "hash": pd.array([row["hash"] for row in rows], dtype="UInt64"),
            "unknown": np.array([row["unknown"] for row in rows], np.uint8),
            "flags": np.array([row["flags"] for row in rows], np.uint32),
            "order": np.zeros(count, np.uint8),
            "head_pfn": pfn,
            "node": np.zeros(count, np.uint16),
            "mapcount": mapcount,
            "refcount": mapcount,
            "folio_mapcount": mapcount,
        }
    )


def _info(ksm: dict[str, int]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "run": 0,
        "max_page_sharing": 256,
        "use_zero_pages": 0,
        "merge_across_nodes": 1,
        "smart_scan": 1,
        "pages_to_scan": 100,
        "sleep_millisecs": 20,
        "full_scans": 0,
        "counters": {},
    }
    return {
        "format_version": 1,
        "kernel": {
            "release": "6.12.0-test",
            "machine": "x86_64",
            "page_size": PAGE,
            "build_id": "00",
        },
        "source": {"kind": "core", "path": "vmcore", "format": "elf"},
        "host": "example",
        "collected_at": "2026-01-01T00:00:00+00:00",
        "ksm": settings | ksm,
        "sizes": {"ksm_rmap_item": 64, "ksm_stable_node": 64, "ksm_mm_slot": 48},
        "features": {
            "merge_any_prctl": True,
            "counts_zero_pages": True,
            "smart_scan": True,
            "advisor": True,
            "checksum_before_stable_tree": True,
            "split_maps_zero_page": True,
            "scans_prot_none": True,
            "prot_none_blocks_tree": False,
        },
        "thp_enabled": "madvise",
        "hash": {"name": "xxh3_64", "seed": 0},
        "unknown": {},
    }


def fork_server(workers: int = 12, shared: int = 400, own: int = 150) -> Snapshot:
    """A service of forked workers, a second service like it, and a loner.

    Every worker has ``shared`` pages that fork shares, a private copy of the same ``2 * shared``
    pages, ``own`` unique pages and some zero-filled ones. The second service holds the same data;
    the loner repeats itself.
    """
    unique = iter(range(1_000_000, 10_000_000))
    data = list(range(1, 2 * shared + 1))
    processes = [
        Process(
            "worker" if i else "controller",
            [
                Area(list(range(5000, 5000 + shared)), frames=[f"f{k}" for k in range(shared)]),
                Area(data, name="[anon:cache]"),
                Area([next(unique) for _ in range(own)] + [ZERO] * 40, name=""),
                Area([next(unique) for _ in range(8)], name="[stack]"),
                Area([next(unique) for _ in range(30)], name="/dev/shm/x", excluded_by="shared"),
            ],
            cgroup="/system.slice/app.service",
            uid=33,
        )
        for i in range(workers + 1)
    ]
    processes += [
        Process(
            "batch",
            [Area(data[:shared], name="[anon:cache]"), Area([next(unique) for _ in range(500)])],
            cgroup="/system.slice/batch.service",
            uid=1001,
        )
        for _ in range(2)
    ]
    processes.append(
        Process(
            "loner",
            [
                Area([7_000_000 + i % 50 for i in range(300)], name=""),
                Area([next(unique) for _ in range(3000)], name="[heap]"),
                Area([next(unique) for _ in range(20)], unknown=Unknown.EXCLUDED),
            ],
            cgroup="/user.slice/user-1000.slice/session-2.scope",
            uid=1000,
        )
    )
    return system(processes)

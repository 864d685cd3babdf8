"""A fork server of the size of Instagram's, as far as the counters that were published say.

A mail of April 2023 has them, of a machine with 64 GB and 36 processes of the workload, after 560
full scans: https://lore.kernel.org/linux-mm/qvqwlej8vrst.fsf@dev0134.prn3.facebook.com/. What is
merged follows from pages_shared, pages_sharing and the chains. For what is not merged there are two
readings; here all that is volatile is memory that fork shares: of a page that N processes map ksmd
finds one mapping in the unstable tree, and the N-1 others come upon that same page.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from estimator.snapshot.flags import FrameFlag, FrameKind
from estimator.snapshot.snapshot import Snapshot
from scripts.bench_predict import snapshot_of

PUBLISHED = {
    "pages_shared": 125_446,
    "pages_sharing": 5_259_506,
    "pages_unshared": 1_897_537,
    "pages_volatile": 12_389_223,
    "stable_node_chains": 176,
    "stable_node_dups": 2_604,
}
PROCESSES = 37
"""The 36 workers of the mail, and the controller that forks them."""
MAX_PAGE_SHARING = 256


@dataclass(frozen=True)
class Shape:
    """Pages that each process maps.

    ``forked``: what the controller had before it forked. ``equal``: contents that every process has
    in a page of its own; it has the first ``twice`` of them a second time. ``common``: contents of
    which it has ``copies`` pages each, more than one KSM page may have mappings. ``own``: what no
    other process has.
    """

    forked: int
    equal: int
    twice: int
    common: int
    copies: int
    own: int

    @property
    def pages(self) -> int:
        """Candidates of one process."""
        return self.forked + self.equal + self.twice + self.common * self.copies + self.own

    @property
    def frames(self) -> int:
        """Frames of all processes."""
        return self.forked + PROCESSES * (self.pages - self.forked)

    def part(self, divisor: int) -> Shape:
        """As many processes, each with so much less."""
        return Shape(
            self.forked // divisor,
            self.equal // divisor,
            self.twice // divisor,
            self.common // divisor,
            self.copies,
            self.own // divisor,
        )


def as_published() -> Shape:
    """The shape whose counters at rest are ``PUBLISHED``, up to rounding."""
    dups, common = PUBLISHED["stable_node_dups"], PUBLISHED["stable_node_chains"]
    copies = round(dups * MAX_PAGE_SHARING / common / PROCESSES)
    merged = (PUBLISHED["pages_shared"] + PUBLISHED["pages_sharing"]) // PROCESSES
    equal = PUBLISHED["pages_shared"] - dups
    forked = PUBLISHED["pages_volatile"] // (PROCESSES - 1)
    own = (PUBLISHED["pages_unshared"] - forked) // PROCESSES
    return Shape(forked, equal, merged - common * copies - equal, common, copies, own)


def script(shape: Shape) -> str:
    """What the controller and its workers do with their memory, for the lab's actor."""
    last = shape.common * shape.copies
    fills = [
        f"fill common[{first}:{first + shape.copies}] same {1000 + first}"
        for first in range(0, last, shape.copies)
    ]
    lines = [
        f"map equal {shape.equal}",
        "fill equal list 1",
        f"map twice {shape.twice}",
        "fill twice list 1",
        f"map common {last}",
        *fills,
        f"map own {shape.own}",
        "fill own own 2",
    ]
    return "\n".join(
        [
            "comm controller",
            "merge-any 1",
            f"map forked {shape.forked}",
            "fill forked own 3",
            f"fork {PROCESSES - 1}",
            "comm worker",
            *lines,
            "end",
            *lines,
        ]
    )


def synthetic(shape: Shape) -> Snapshot:
    """The same processes without a kernel, as ``open_snapshot`` returns them."""
    forked = _contents(1, shape.forked)
    equal = _contents(2, shape.equal)
    common = np.repeat(_contents(3, shape.common), shape.copies)
    own = _contents(4, PROCESSES * shape.own).reshape(PROCESSES, shape.own)
    hashes = [forked]
    frame_ids = []
    pages = np.array([shape.forked, shape.equal, shape.twice, len(common), shape.own])
    private = shape.pages - shape.forked
    for process in range(PROCESSES):
        hashes += [equal, equal[: shape.twice], common, own[process]]
        first = shape.forked + process * private
        frame_ids += [np.arange(shape.forked), np.arange(first, first + private)]
    frames = shape.frames
    mapcount = np.ones(frames, np.int32)
    mapcount[: shape.forked] = PROCESSES
    pfn = np.arange(frames, dtype=np.uint64) + np.uint64(1_000)
    vmas = PROCESSES * len(pages)
    each = np.tile(pages, PROCESSES)
    start = (np.arange(vmas, dtype=np.uint64) + np.uint64(1)) << np.uint64(32)
    mm_id = np.arange(PROCESSES, dtype=np.uint32)
    return snapshot_of(
        processes={
            "mm_id": mm_id,
            "scan_order": mm_id.astype(np.int32),
            "pid": mm_id.astype(np.int32) + 1_000,
            "comm": ["controller", *["worker"] * (PROCESSES - 1)],
            "cgroup": ["/system.slice/web.service"] * PROCESSES,
            "merge_any": pd.array([True] * PROCESSES, dtype="boolean"),
            "sharing_pids": [[] for _ in range(PROCESSES)],
            "start_time_ns": mm_id.astype(np.uint64),
        },
        vmas={
            "vma_id": np.arange(vmas, dtype=np.uint32),
            "mm_id": np.repeat(mm_id, len(pages)),
            "start": start,
            "end": start + (each.astype(np.uint64) << np.uint64(12)),
            "name": [""] * vmas,
            "mergeable": np.ones(vmas, np.bool_),
            "compatible": np.ones(vmas, np.bool_),
            "excluded_by": [None] * vmas,
            "has_anon_vma": np.ones(vmas, np.bool_),
        },
        mappings={
            "vma_id": np.repeat(np.arange(vmas, dtype=np.uint32), each),
            "page_index": np.concatenate([np.arange(n, dtype=np.uint64) for n in each]),
            "frame_id": np.concatenate(frame_ids).astype(np.uint32),
        },
        frames={
            "pfn": pfn,
            "hash": pd.array(np.concatenate(hashes), dtype="UInt64"),
            "kind": np.full(frames, FrameKind.ANONYMOUS, np.uint8),
            "flags": np.full(frames, FrameFlag.LRU | FrameFlag.SWAPBACKED, np.uint32),
            "head_pfn": pfn,
            "mapcount": mapcount,
            "refcount": mapcount,
            "folio_mapcount": mapcount,
        },
    )


def _contents(kind: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Hashes that no other kind has, in no order."""
    numbers = np.arange(count, dtype=np.uint64) + np.uint64(kind << 40)
    return numbers * np.uint64(0x9E3779B97F4A7C15)

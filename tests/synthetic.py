"""Snapshots made by hand: a few lines state who maps which frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from estimator.snapshot.flags import FrameFlag, FrameKind, MappingFlag, Unknown
from estimator.snapshot.snapshot import Snapshot

PAGE = 4096
VM_MERGEABLE = 1 << 31
KERNELS = {
    "6.1": {
        "merge_any_prctl": False,
        "counts_zero_pages": False,
        "fork_counts_zero_pages": False,
        "counts_each_scanned_page": False,
        "smart_scan": False,
        "checksum_before_stable_tree": False,
        "split_maps_zero_page": False,
        "break_cow_forgets": False,
        "scans_prot_none": True,
        "prot_none_blocks_tree": True,
        "advisor": False,
        "khugepaged_any_order": False,
        "skips_holes": True,
    },
    "6.12": {
        "merge_any_prctl": True,
        "counts_zero_pages": True,
        "fork_counts_zero_pages": True,
        "counts_each_scanned_page": True,
        "smart_scan": True,
        "checksum_before_stable_tree": True,
        "split_maps_zero_page": True,
        "scans_prot_none": True,
        "prot_none_blocks_tree": False,
        "break_cow_forgets": False,
        "advisor": True,
        "khugepaged_any_order": False,
        "skips_holes": True,
    },
}
KERNELS["7.3"] = KERNELS["6.12"] | {"break_cow_forgets": True, "khugepaged_any_order": True}


@dataclass(eq=False)
class Frame:
    """One frame; ``content`` 0 is the zero page's, None is unknown."""

    content: int | None
    pins: int = 0  # references of the folio besides mappings
    batches: int | None = None  # references of per-CPU batches, among ``pins``
    node: int = 0
    flags: int = FrameFlag.LRU | FrameFlag.SWAPBACKED
    kind: int = FrameKind.ANONYMOUS
    outside: int = 0  # mappings by processes that the snapshot does not hold
    folio: list[Frame] = field(default_factory=list)


@dataclass(eq=False)
class Vma:
    """One VMA: ``pages`` maps a page index to the frame and the flags of its mapping."""

    pages: dict[int, tuple[Frame, int]]
    mergeable: bool = True
    excluded_by: str | None = None
    locked: bool = False
    has_anon_vma: bool = True
    name: str = ""
    vm_flags: int = 0
    ksm_zero_pages: int = 0
    swap_pages: int = 0
    unknown_pages: int = 0


@dataclass(eq=False)
class Process:
    """One mm. ``listed``: on ksmd's list."""

    pid: int
    comm: str
    cgroup: str
    uid: int
    listed: bool
    vmas: list[Vma] = field(default_factory=list)
    sharing_pids: list[int] = field(default_factory=list)

    def map(self, frames: Iterable[Frame], flags: int = MappingFlag.DIRTY, **vma: Any) -> Vma:
        """Add a VMA that maps ``frames`` page by page."""
        self.vmas.append(Vma(dict(enumerate((frame, flags) for frame in frames)), **vma))
        return self.vmas[-1]


def small(*contents: int | None, **facts: Any) -> list[Frame]:
    """Frames of their own, one per content."""
    return [Frame(content, **facts) for content in contents]


def folio(contents: Sequence[int | None], **facts: Any) -> list[Frame]:
    """The frames of one large folio; the length is a power of two."""
    frames = small(*contents, **facts)
    for frame in frames:
        frame.folio = frames
        frame.flags |= FrameFlag.LARGE
    return frames


class System:
    """Processes, in ksmd's order, and what the kernel can do."""

    def __init__(self, kernel: str = "6.12", **ksm: Any) -> None:
        self.processes: list[Process] = []
        self.stable_nodes: list[tuple[Frame, int]] = []
        self.features: dict[str, bool] = dict(KERNELS[kernel])
        self.ksm: dict[str, Any] = {
            "run": 0,
            "max_page_sharing": 256,
            "use_zero_pages": 0,
            "merge_across_nodes": 1,
            "smart_scan": 0,
            "counters": {},
        } | ksm
        self.release = kernel
        self.thp_enabled = "never"
        self.thp_orders: dict[str, int] | None = None
        self._unique = 1 << 40

    def __repr__(self) -> str:
        """Who maps what, so that a failing random system can be read."""
        names: dict[int, str] = {}
        for process in self.processes:
            for vma in process.vmas:
                for frame, _ in vma.pages.values():
                    names.setdefault(id(frame), f"f{len(names)}{_facts(frame)}")
        folios: dict[int, int] = {}
        lines = [f"System({self.release}, {self.ksm})"]
        for process in self.processes:
            lines.append(f"  {process.pid}{'' if process.listed else ' not listed'}")
            for vma in process.vmas:
                pages = [
                    names[id(f)]
                    + (f"/F{folios.setdefault(id(f.folio), len(folios))}" if f.folio else "")
                    + f":{flags}"
                    for f, flags in vma.pages.values()
                ]
                state = " locked" * vma.locked + " unmergeable" * (not vma.mergeable)
                lines.append(f"    [{' '.join(pages)}]{state}")
        return "\n".join(lines)

    def process(
        self,
        *frames: Frame,
        comm: str = "worker",
        cgroup: str = "/",
        uid: int = 0,
        listed: bool = True,
        **vma: Any,
    ) -> Process:
        """Add a process; ``frames``, if any, are mapped in a VMA of their own."""
        pid = 100 + len(self.processes)
        self.processes.append(Process(pid, comm, cgroup, uid, listed))
        if frames:
            self.processes[-1].map(frames, **vma)
        return self.processes[-1]

    def processes_with(self, *each: Sequence[Frame]) -> None:
        """One process per argument."""
        for frames in each:
            self.process(*frames)

    def fork(self, parent: Process, times: int = 1) -> None:
        """Children that map the same frames."""
        for _ in range(times):
            child = self.process(comm=parent.comm, cgroup=parent.cgroup, listed=parent.listed)
            child.vmas = parent.vmas

    def unique(self, pages: int) -> list[int]:
        """Contents that nothing else has."""
        self._unique += pages
        return list(range(self._unique - pages, self._unique))

    def stable_node(self, frame: Frame, chain: int = -1) -> None:
        """``frame`` is the KSM page of a stable node; map it with MappingFlag.MERGED."""
        frame.kind = FrameKind.KSM
        self.stable_nodes.append((frame, chain))

    def snapshot(self) -> Snapshot:
        """The tables, as ``open_snapshot`` returns them."""
        vmas = [(mm, vma) for mm, process in enumerate(self.processes) for vma in process.vmas]
        mappings = [
            (vma_id, index, frame, flags)
            for vma_id, (_, vma) in enumerate(vmas)
            for index, (frame, flags) in sorted(vma.pages.items())
        ]
        frames = _in_pfn_order(frame for _, _, frame, _ in mappings)
        number = {id(frame): n for n, frame in enumerate(frames)}
        return Snapshot(
            info={
                "kernel": {"release": self.release, "machine": "x86_64", "page_size": PAGE},
                "ksm": self.ksm,
                "sizes": {"ksm_rmap_item": 64, "ksm_stable_node": 64, "ksm_mm_slot": 48},
                "features": self.features,
                "thp_enabled": self.thp_enabled,
                "thp_orders": self.thp_orders,
                "hash": {"name": "test", "seed": 0},
                "source": {"kind": "core", "path": "vmcore", "format": "elf", "warnings": []},
                "unknown": {},
            },
            processes=self._process_table(),
            vmas=_vma_table(vmas),
            mappings=pd.DataFrame(
                {
                    "vma_id": np.array([m[0] for m in mappings], dtype=np.uint32),
                    "page_index": np.array([m[1] for m in mappings], dtype=np.uint64),
                    "frame_id": np.array([number[id(m[2])] for m in mappings], dtype=np.uint32),
                    "flags": np.array([m[3] for m in mappings], dtype=np.uint8),
                }
            ),
            frames=_frame_table(frames, [m[2] for m in mappings], number),
            stable_nodes=self._node_table(number),
            stable_items=_item_table(mappings, vmas, self.stable_nodes),
        )

    def _process_table(self) -> pd.DataFrame:
        processes = self.processes
        count = len(processes)
        listed = np.array([p.listed for p in processes], bool)
        order = np.where(listed, np.cumsum(listed) - 1, -1)
        return pd.DataFrame(
            {
                "mm_id": np.arange(count, dtype=np.uint32),
                "scan_order": pd.array(order, "Int32"),
                "pid": np.array([p.pid for p in processes], dtype=np.int32),
                "comm": [p.comm for p in processes],
                "cmdline": [p.comm for p in processes],
                "uid": np.array([p.uid for p in processes], dtype=np.uint32),
                "cgroup": [p.cgroup for p in processes],
                "merge_any": pd.array([False] * count, dtype="boolean"),
                "threads": np.ones(count, dtype=np.uint32),
                "sharing_pids": [np.array(p.sharing_pids, dtype=np.int32) for p in processes],
                "sched_policy": np.zeros(count, dtype=np.uint8),
                "nice": np.zeros(count, dtype=np.int8),
                "start_time_ns": np.arange(count, dtype=np.uint64),
                "ksm_rmap_items": pd.array([0] * count, dtype="Int64"),
                "ksm_merging_pages": pd.array([0] * count, dtype="Int64"),
                "ksm_zero_pages": pd.array(
                    [sum(vma.ksm_zero_pages for vma in p.vmas) for p in processes], dtype="Int64"
                ),
            }
        )

    def _node_table(self, number: dict[int, int]) -> pd.DataFrame:
        nodes = self.stable_nodes
        return pd.DataFrame(
            {
                "node_id": np.arange(len(nodes), dtype=np.uint32),
                "chain_id": np.array([chain for _, chain in nodes], dtype=np.int32),
                "pfn": np.array([1000 + number[id(f)] for f, _ in nodes], dtype=np.uint64),
                "frame_id": pd.array([number[id(f)] for f, _ in nodes], dtype="UInt32"),
                "node": np.array([f.node for f, _ in nodes], dtype=np.uint16),
                "live": np.ones(len(nodes), dtype=bool),
            }
        )


def _facts(frame: Frame) -> str:
    text = f"={frame.content}"
    text += f" pins={frame.pins}" if frame.pins else ""
    text += f" node={frame.node}" if frame.node else ""
    text += " mlocked" if frame.flags & FrameFlag.MLOCKED else ""
    text += " ksm" if frame.kind == FrameKind.KSM else ""
    return text + (f" outside={frame.outside}" if frame.outside else "")


def _in_pfn_order(mapped: Iterable[Frame]) -> list[Frame]:
    """Every mapped frame once, the frames of one folio together."""
    pages = {id(frame): frame for frame in mapped}
    ordered = {}
    for frame in pages.values():
        for piece in frame.folio or [frame]:
            if id(piece) in pages:
                ordered[id(piece)] = piece
    return list(ordered.values())


def _frame_table(frames: list[Frame], mapped: list[Frame], number: dict[int, int]) -> pd.DataFrame:
    ids = np.array([number[id(frame)] for frame in mapped], dtype=np.int64)
    mapcount = np.bincount(ids, minlength=len(frames)) + [f.outside for f in frames]
    folios = [[number[id(p)] for p in f.folio or [f] if id(p) in number] for f in frames]
    folio_mapcount = np.array([mapcount[pieces].sum() for pieces in folios], dtype=np.int32)
    swapcache = [bool(f.flags & FrameFlag.SWAPCACHE) * len(f.folio or [f]) for f in frames]
    pins = [max(piece.pins for piece in f.folio or [f]) for f in frames]
    unknown = [Unknown.EXCLUDED if f.content is None else Unknown.HASHED for f in frames]
    flags = [f.flags | (FrameFlag.ZERO if f.content == 0 else 0) for f in frames]
    return pd.DataFrame(
        {
            "pfn": np.arange(1000, 1000 + len(frames), dtype=np.uint64),
            "hash": pd.array([_hash(f.content) for f in frames], dtype="UInt64"),
            "unknown": np.array(unknown, dtype=np.uint8),
            "kind": np.array([f.kind for f in frames], dtype=np.uint8),
            "flags": np.array(flags, dtype=np.uint32),
            "order": np.array([(len(f.folio or [f]) - 1).bit_length() for f in frames], np.uint8),
            "head_pfn": np.array([1000 + min(pieces) for pieces in folios], dtype=np.uint64),
            "node": np.array([f.node for f in frames], dtype=np.uint16),
            "mapcount": mapcount.astype(np.int32),
            "refcount": (folio_mapcount + swapcache + pins).astype(np.int32),
            "folio_mapcount": folio_mapcount,
            "batch_references": pd.array([f.batches for f in frames], dtype="UInt8"),
        }
    )


def _hash(content: int | None) -> int | None:
    """Any mixing will do; it must not keep the order of the contents."""
    return None if content is None else (content + 1) * 0x9E3779B97F4A7C15 % 2**64


def _vma_table(vmas: list[tuple[int, Vma]]) -> pd.DataFrame:
    count = len(vmas)
    start = 0x7F0000000000 + np.arange(count, dtype=np.uint64) * np.uint64(1 << 30)
    pages = [max(vma.pages, default=-1) + 1 for _, vma in vmas]
    return pd.DataFrame(
        {
            "vma_id": np.arange(count, dtype=np.uint32),
            "mm_id": np.array([mm for mm, _ in vmas], dtype=np.uint32),
            "start": start,
            "end": start + np.array(pages, dtype=np.uint64) * np.uint64(PAGE),
            "vm_flags": np.array(
                [v.vm_flags | (VM_MERGEABLE if v.mergeable else 0) for _, v in vmas], np.uint64
            ),
            "name": [vma.name for _, vma in vmas],
            "mergeable": np.array([vma.mergeable for _, vma in vmas], dtype=bool),
            "compatible": np.array([vma.excluded_by is None for _, vma in vmas], dtype=bool),
            "excluded_by": pd.array([vma.excluded_by for _, vma in vmas], dtype="string"),
            "has_anon_vma": np.array([vma.has_anon_vma for _, vma in vmas], dtype=bool),
            "locked": np.array([vma.locked for _, vma in vmas], dtype=bool),
            "swap_pages": np.array([vma.swap_pages for _, vma in vmas], dtype=np.uint64),
            "zero_pages": np.zeros(count, dtype=np.uint64),
            "ksm_zero_pages": np.array([vma.ksm_zero_pages for _, vma in vmas], dtype=np.uint64),
            "nonpresent_pages": np.zeros(count, dtype=np.uint64),
            "unknown_pages": np.array([vma.unknown_pages for _, vma in vmas], dtype=np.uint64),
        }
    )


def _item_table(
    mappings: list[tuple[int, int, Frame, int]],
    vmas: list[tuple[int, Vma]],
    nodes: list[tuple[Frame, int]],
) -> pd.DataFrame:
    node_of = {id(frame): n for n, (frame, _) in enumerate(nodes)}
    items = [
        (node_of[id(frame)], vmas[vma_id][0], 0x7F0000000000 + (vma_id << 30) + (index << 12))
        for vma_id, index, frame, flags in mappings
        if flags & MappingFlag.MERGED and id(frame) in node_of
    ]
    return pd.DataFrame(
        {
            "node_id": np.array([i[0] for i in items], dtype=np.uint32),
            "mm_id": np.array([i[1] for i in items], dtype=np.uint32),
            "address": np.array([i[2] for i in items], dtype=np.uint64),
            "age": np.zeros(len(items), dtype=np.uint8),
            "checksum": np.zeros(len(items), dtype=np.uint32),
        }
    )

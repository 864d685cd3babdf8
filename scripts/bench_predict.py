"""`predict` alone on synthetic snapshots: time and memory by the number of mappings."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from estimator.arrays import Columns
from estimator.packed import Packed
from estimator.snapshot.flags import FrameFlag, FrameKind
from estimator.snapshot.format import FORMAT_VERSION
from estimator.snapshot.gathered import Gathered, objects
from estimator.snapshot.schema import SCHEMAS
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from scripts.bench_measure import best, peak_of, run
from tests.synthetic import KERNELS

_MILLION = 1_000_000
_PROCESSES = 100
_VMAS_PER_PROCESS = 50
_CONTENTS_PER_FRAME = 0.5


def bench_predict(mappings: tuple[int, ...], *arguments: str) -> None:
    """Print the table for snapshots of so many million ``mappings``.

    ``arguments``: the command and its options.
    """
    table = Table(title=f"ksm-estimator {' '.join(arguments)}")
    for column in ("million mappings", "snapshot MiB", "seconds", "anonymous MiB"):
        table.add_column(column, justify="right")
    command = [str(Path(sys.executable).with_name("ksm-estimator")), *arguments, "--json"]
    for millions in mappings:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "bench.ksm"
            write_snapshot(gathered(millions * _MILLION), path)
            size = sum(file.stat().st_size for file in path.iterdir())
            finished = best([run([*command, str(path)]) for _ in range(3)])
            memory = peak_of([*command, str(path)]).anonymous_bytes
        row = (f"{size / 1024**2:.0f}", f"{finished.seconds:.2f}", f"{memory / 1024**2:.0f}")
        table.add_row(str(millions), *row)
    Console(width=100).print(table)


def synthetic(mappings: int, frames_per_mapping: float = 0.7) -> Snapshot:
    """``gathered`` as DataFrames."""
    return gathered(mappings, frames_per_mapping).snapshot()


def gathered(mappings: int, frames_per_mapping: float = 0.7) -> Gathered:
    """A system of 100 processes with ``mappings`` mappings, 3 in 10 shared by fork.

    ``frames_per_mapping``: 1 where none is shared.
    """
    random = np.random.default_rng(1)
    vma_count = _PROCESSES * _VMAS_PER_PROCESS
    per_vma = mappings // vma_count
    frame_count = int(mappings * frames_per_mapping)
    frame_id = np.arange(mappings, dtype=np.uint32) % np.uint32(frame_count)
    contents = random.integers(0, 2**63, int(frame_count * _CONTENTS_PER_FRAME)).view(np.uint64)
    mapcount = np.bincount(frame_id, minlength=frame_count).astype(np.int32)
    pfn = np.arange(frame_count, dtype=np.uint64) + np.uint64(1_000)
    vma_id = np.repeat(np.arange(vma_count, dtype=np.uint32), per_vma)
    vma_id = np.concatenate([vma_id, np.full(mappings - len(vma_id), vma_count - 1, np.uint32)])
    first = np.searchsorted(vma_id, np.arange(vma_count))
    page_index = np.arange(mappings, dtype=np.uint64)
    page_index -= first.astype(np.uint64)[vma_id]
    start = (np.arange(vma_count, dtype=np.uint64) + np.uint64(1)) << np.uint64(32)
    pages = np.bincount(vma_id).astype(np.uint64)
    frames: Columns = {
        "pfn": pfn,
        "hash": contents[random.integers(0, len(contents), frame_count, dtype=np.int32)],
        "kind": np.full(frame_count, FrameKind.ANONYMOUS, np.uint8),
        "flags": np.full(frame_count, FrameFlag.LRU | FrameFlag.SWAPBACKED, np.uint32),
        "head_pfn": pfn,
        "mapcount": mapcount,
        "refcount": mapcount,
        "folio_mapcount": mapcount,
    }
    vmas: Columns = {
        "vma_id": np.arange(vma_count, dtype=np.uint32),
        "mm_id": np.repeat(np.arange(_PROCESSES, dtype=np.uint32), _VMAS_PER_PROCESS),
        "start": start,
        "end": start + (pages << np.uint64(12)),
        "name": objects([""] * vma_count),
        "mergeable": np.ones(vma_count, np.bool_),
        "compatible": np.ones(vma_count, np.bool_),
        "excluded_by": objects([None] * vma_count),
        "has_anon_vma": np.ones(vma_count, np.bool_),
    }
    mm_id = np.arange(_PROCESSES, dtype=np.uint32)
    processes: Columns = {
        "mm_id": mm_id,
        "scan_order": mm_id.astype(np.int32),
        "pid": mm_id.astype(np.int32) + 1_000,
        "comm": objects(["worker"] * _PROCESSES),
        "cgroup": objects([f"/system.slice/service{n % 10}.service" for n in range(_PROCESSES)]),
        "merge_any": np.ones(_PROCESSES, np.bool_),
        "sharing_pids": objects([[] for _ in range(_PROCESSES)]),
        "start_time_ns": mm_id.astype(np.uint64),
    }
    mapped: Columns = {"vma_id": vma_id, "page_index": page_index, "frame_id": frame_id}
    item = SCHEMAS["stable_nodes"].field("items").type.value_type
    return Gathered(
        _INFO,
        _columns("processes", processes),
        _columns("vmas", vmas),
        _packed(_columns("mappings", mapped)),
        _packed(_columns("frames", frames)),
        _columns("stable_nodes", {}),
        {"node_id": np.zeros(0, np.uint32)} | {f.name: _nothing(f, 0) for f in item},
    )


def _columns(name: str, known: Columns) -> Columns:
    """``known`` with what the schema has besides, nulls or zeroes: one of each in memory."""
    rows = len(next(iter(known.values()), ()))
    nothing = {f.name: _nothing(f, rows) for f in SCHEMAS[name] if f.name != "items"}
    return nothing | known


def _packed(table: Columns) -> dict[str, Packed]:
    """``table``, which is used up."""
    return {name: Packed.of(table.pop(name)) for name in list(table)}


def _nothing(field: pa.Field, rows: int) -> npt.NDArray[Any]:
    if pa.types.is_string(field.type):
        return objects([None] * rows)
    zeroes = np.broadcast_to(np.zeros((), field.type.to_pandas_dtype()), rows)
    if not field.nullable:
        return zeroes
    return np.ma.MaskedArray(zeroes, mask=np.broadcast_to(np.True_, rows), copy=False)


def snapshot_of(
    processes: Mapping[str, object],
    vmas: Mapping[str, object],
    mappings: Mapping[str, object],
    frames: Mapping[str, object],
) -> Snapshot:
    """A system that KSM has not seen, from the columns that matter; the others are empty."""
    return Snapshot(
        _INFO,
        _table("processes", processes),
        _table("vmas", vmas),
        _table("mappings", mappings),
        _table("frames", frames),
        _table("stable_nodes", {}),
        pd.DataFrame({name: [] for name in ("node_id", "mm_id", "address", "age", "checksum")}),
    )


def _table(name: str, columns: Mapping[str, object]) -> pd.DataFrame:
    """``columns`` with what the schema has besides, nulls or zeroes."""
    table = pd.DataFrame(columns)
    rows = len(table)
    for field in SCHEMAS[name]:
        if field.name not in table and field.name != "items":
            table[field.name] = (
                pd.Series([None] * rows, dtype=object)
                if field.nullable
                else np.zeros(rows, field.type.to_pandas_dtype())
            )
    return table


_INFO = {
    "format_version": FORMAT_VERSION,
    "kernel": {"release": "synthetic", "machine": "x86_64", "page_size": 4096, "build_id": None},
    "source": {"kind": "core", "path": "synthetic", "format": "elf", "warnings": []},
    "host": "synthetic",
    "collected_at": "2026-01-01T00:00:00+00:00",
    "hash": {"name": "xxh3_64", "seed": 0},
    "ksm": {
        "run": 0,
        "max_page_sharing": 256,
        "use_zero_pages": 0,
        "merge_across_nodes": 1,
        "smart_scan": 1,
        "pages_to_scan": 100,
        "sleep_millisecs": 20,
        "counters": {},
    },
    "sizes": {"ksm_rmap_item": 64, "ksm_stable_node": 64, "ksm_mm_slot": 48},
    "features": dict(KERNELS["6.12"]),
    "thp_enabled": "never",
    "unknown": {},
}

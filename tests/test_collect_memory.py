"""What a mapping more takes of memory while it is collected, where no two share a frame."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from estimator.arrays import Columns, Words
from estimator.collect.budget import needed_bytes
from estimator.collect.mappings import Mapped, Rows, distinct_of
from estimator.collect.settle import settle
from estimator.collect.tables import Table, make_tables
from estimator.packed import Packed, add
from estimator.snapshot import store
from estimator.snapshot.flags import FrameKind
from estimator.snapshot.gathered import Gathered
from estimator.snapshot.store import write_snapshot
from tests.systems import fork_server
from tests.test_gathered import gathered

FEWER, MORE = 200_000, 400_000
_AT_ONCE = 1 << 17


def walk(rows: int) -> Mapped:
    """Every page of one VMA; their frames lie anywhere, as after days of use."""
    mapped = Mapped({"unknown_pages": np.zeros(1, np.uint64)}, np.zeros(1, np.uint64))
    for begin in range(0, rows, _AT_ONCE):
        page = np.arange(begin, min(begin + _AT_ONCE, rows), dtype=np.uint64)
        pfn = page * np.uint64(7_919) % np.uint64(rows)  # a permutation: 7,919 is a prime
        flags = (pfn % 7).astype(np.uint8)
        mapped.append(Rows(np.zeros(len(page), np.uint32), page, pfn, flags))
    return mapped


def look(pfns: Packed) -> Table:
    """Facts of frames of which no two have the same content."""
    facts = {name: Packed(values.dtype) for name, values in described(pfns[:1]).items()}
    for piece in pfns.pieces():
        add(facts, described(piece))
    return facts


def described(pfn: Words) -> Columns:
    size, some = len(pfn), (pfn * np.uint64(40_503)) >> np.uint64(7)
    return {
        "ok": np.ones(size, np.bool_),
        "hash": (pfn + np.uint64(1)) * np.uint64(0x9E37_79B9_7F4A_7C15),
        "unknown": np.zeros(size, np.uint8),
        "kind": np.full(size, FrameKind.ANONYMOUS, np.uint8),
        "flags": (some % np.uint64(4)).astype(np.uint32),
        "order": np.zeros(size, np.uint8),
        "head_pfn": pfn,
        "node": np.zeros(size, np.uint16),
        "mapcount": (some % np.uint64(3)).astype(np.int32),
        "refcount": (some % np.uint64(5)).astype(np.int32),
        "folio_mapcount": (some % np.uint64(3)).astype(np.int32),
    }


def to_tables(mapped: Mapped, pfns: Packed, facts: Table, path: Path) -> None:
    vmas: Columns = {}
    mappings, frames = make_tables(vmas, mapped, pfns, facts, 0, 4096)
    del mapped, pfns, facts
    small = gathered(fork_server())
    small = Gathered(
        small.info,
        small.processes,
        small.vmas,
        mappings,
        frames,
        small.stable_nodes,
        small.stable_items,
    )
    write_snapshot(small, path)


def of_dump(rows: int, path: Path) -> None:
    mapped = walk(rows)
    pfns = distinct_of(mapped.pfn)
    to_tables(mapped, pfns, look(pfns), path)


def of_running(rows: int, path: Path) -> None:
    mapped = walk(rows)
    pfns = distinct_of(mapped.pfn)
    mapped, pfns, facts, _ = settle(mapped, pfns, look(pfns), lambda: walk(rows), look)
    to_tables(mapped, pfns, facts, path)


def peak_bytes(collect: Callable[[int, Path], None], rows: int, path: Path) -> int:
    tracemalloc.start()
    try:
        collect(rows, path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("collect", "running"), [(of_dump, False), (of_running, True)])
def test_a_mapping_more(
    collect: Callable[[int, Path], None],
    running: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "ROW_GROUP_ROWS", 1 << 16)  # what is written at once is no more
    fewer, more = (peak_bytes(collect, n, tmp_path / f"{n}.ksm") for n in (FEWER, MORE))
    each = (more - fewer) / (MORE - FEWER)
    less, asked = (needed_bytes(n, running=running) for n in (FEWER, MORE))
    assert 8 < each < (asked - less) / (MORE - FEWER)  # a hash has 8 bytes

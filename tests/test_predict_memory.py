"""What a prediction takes at its peak, beyond what it takes for any snapshot."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.store import open_snapshot, write_snapshot
from scripts.bench_predict import synthetic

_FEW, _MORE = 400_000, 1_000_000
_MOST_BYTES = 40  # of each mapping, where 7 in 10 have a frame of their own


def _peak_bytes(path: Path, mappings: int) -> int:
    write_snapshot(synthetic(mappings), path)
    tracemalloc.start()
    try:
        snapshot = open_snapshot(path, stored=True)
        found = predict(snapshot, Policy())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.counters["ksm_rmap_items"] == mappings
    return peak


def test_a_mapping_more_takes_so_much_memory(tmp_path: Path) -> None:
    few, more = (_peak_bytes(tmp_path / f"{n}.ksm", n) for n in (_FEW, _MORE))
    assert (more - few) / (_MORE - _FEW) < _MOST_BYTES

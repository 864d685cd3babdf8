"""What a prediction takes at its peak, beyond what it takes for any snapshot."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from estimator import arrays
from estimator.advice.borders import borders
from estimator.advice.patterns import patterns
from estimator.advice.preload import preload
from estimator.ksm import content_parts
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


@pytest.mark.parametrize("max_page_sharing", [256, 1 << 22])
def test_one_content_that_is_half_of_all_is_looked_at_in_parts(
    max_page_sharing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is all on one stable node; held at once it takes 40 bytes and more."""
    monkeypatch.setattr(content_parts, "_ROWS_OF_A_PART", 1 << 12)
    monkeypatch.setattr(arrays, "_PIECE_ROWS", 1 << 12)
    mappings = 200_000
    snapshot = synthetic(mappings)
    hashes = snapshot.frames["hash"].mask(np.arange(len(snapshot.frames)) % 2 == 0, 7)
    snapshot = replace(snapshot, frames=snapshot.frames.assign(hash=hashes))
    found = predict(snapshot, Policy(max_page_sharing=max_page_sharing))
    assert len(found.credits.stable_node) == len(snapshot.frames)  # worked out by now
    mm_of_vma = snapshot.vmas["mm_id"].to_numpy(np.int64)
    questions = (
        lambda: found.pairs("process"),
        lambda: found.contents(10),
        lambda: borders(snapshot, found, np.arange(len(snapshot.processes))),
        lambda: preload(snapshot, found),
        lambda: patterns(snapshot, found, mm_of_vma),
    )
    peaks = []
    for ask in questions:
        tracemalloc.start()
        try:
            ask()
            peaks.append(tracemalloc.get_traced_memory()[1] / mappings)
        finally:
            tracemalloc.stop()
    assert max(peaks) < 28

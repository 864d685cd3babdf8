"""What KSM does besides saving memory, in numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from estimator.advice.side_effects import side_effects
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.risk_sections import side_effect_words
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.snapshot import Snapshot
from tests.synthetic import System, folio, small
from tests.systems import Area, Process, system

ENABLED = Policy(scope="enabled")


def words(snapshot: Snapshot) -> str:
    return " ".join(side_effect_words(side_effects(snapshot, predict(snapshot, ENABLED))))


def test_huge_pages_that_are_split_are_counted_by_their_size() -> None:
    """One of two huge pages has a page that is elsewhere too; so has one of two small folios."""
    made = System()
    unique = iter(range(10_000, 20_000))
    made.process(*folio([7, *(next(unique) for _ in range(511))]))
    made.process(*folio([next(unique) for _ in range(512)]))
    made.process(*folio([8, *(next(unique) for _ in range(15))]))
    made.process(*folio([next(unique) for _ in range(16)]))
    made.process(*small(7, 8))
    snapshot = made.snapshot()
    found = side_effects(snapshot, predict(snapshot, ENABLED))
    assert (found.split_huge_pages, found.huge_pages) == (1, 2)
    assert found.split_bytes == (512 + 16) * 4096
    text = words(snapshot)
    assert "1 of 2 huge pages that ksmd scans would be split" in text
    assert "of smaller large folios, 64.0 KiB" in text


def test_undoing_it_takes_more_than_it_freed_where_fork_shared() -> None:
    """Eight workers share one frame; a copy of it frees one frame and makes eight references."""
    made = System()
    worker = made.process(*small(7))
    made.fork(worker, 7)
    made.process(*small(7))
    snapshot = made.snapshot()
    found = side_effects(snapshot, predict(snapshot, ENABLED))
    assert (found.freed_bytes, found.unmerge_bytes) == (4096, 8 * 4096)
    assert "32.0 KiB of free memory at once, 28.0 KiB more than the merge frees" in words(snapshot)
    assert "As much has to be free or swappable for the day on which all" in words(snapshot)


def test_zero_pages_that_ksmd_placed_are_undone_too() -> None:
    made = System(use_zero_pages=1)
    made.process(*small(0, 0, 0))
    snapshot = made.snapshot()
    assert side_effects(snapshot, predict(snapshot, ENABLED)).unmerge_bytes == 3 * 4096


def test_changes_are_not_known_from_one_look() -> None:
    snapshot = system([Process("web", [Area([1, 1], mergeable=True)])])
    found = side_effects(snapshot, predict(snapshot, ENABLED))
    assert (found.compared_pages, found.changed_pages, found.interval_seconds) == (None,) * 3
    assert "not known from one look: collect with --passes 2" in words(snapshot)


def test_changes_between_two_looks_are_told() -> None:
    snapshot = system([Process("web", [Area([1, 1, 1, 2], mergeable=True)])])
    flags = snapshot.mappings["flags"].to_numpy() | np.uint8(MappingFlag.COMPARED)
    flags[0] |= np.uint8(MappingFlag.CHANGED)
    info = snapshot.info | {"passes": {"count": 2, "interval_seconds": 30.0}}
    looked = replace(snapshot, info=info, mappings=snapshot.mappings.assign(flags=flags))
    assert "Of 4 pages that were looked at again after 30 s, 1 had changed (25%)" in words(looked)

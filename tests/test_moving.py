"""Two walks of page tables that change: what is kept, read again, given up."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest

from estimator.arrays import Columns
from estimator.collect.load import Pace
from estimator.collect.mappings import FRAME_FACTS, Mapped, Rows, distinct_of
from estimator.collect.settle import settle
from estimator.collect.tables import Table
from estimator.packed import Packed, packed

FIRST_PAGE = np.array([0, 1 << 40, 2 << 40], np.uint64)


def mapped(*rows: tuple[int, int, int]) -> Mapped:
    """Rows of (vma_id, page_index, pfn), in order."""
    vma_id, page_index, pfn = np.array(rows, np.uint64).reshape(-1, 3).T
    counts = {"unknown_pages": np.zeros(3, np.uint64)}
    flags = np.zeros(len(pfn), np.uint8)
    found = Mapped(counts, FIRST_PAGE)
    found.append(Rows(vma_id.astype(np.uint32), page_index, pfn, flags))
    return found


class System:
    """Gives one walk after the other; the content of a frame is the number of the look."""

    def __init__(self, *walks: Mapped) -> None:
        self.walks: Iterator[Mapped] = map(copy.deepcopy, walks)
        self.looks: list[list[int]] = []

    def look(self, frames: Packed) -> Table:
        pfns = frames[:]
        self.looks.append(pfns.tolist())
        columns: Columns = {name: np.ones(len(pfns), dtype) for name, dtype in FRAME_FACTS.items()}
        columns["hash"] = pfns * np.uint64(100) + np.uint64(len(self.looks))
        return packed(columns)

    def settle(self) -> tuple[Mapped, dict[int, int], int]:
        first = next(self.walks)
        pfns = distinct_of(first.pfn)
        kept, pfns, facts, lost = settle(
            first, pfns, self.look(pfns), lambda: next(self.walks), self.look
        )
        hashes = dict(zip(pfns[:].tolist(), facts["hash"][:].tolist(), strict=True))
        return kept, hashes, int(lost.sum())


def test_what_two_walks_agree_on_is_read_once() -> None:
    system = System(mapped((0, 1, 10), (1, 5, 20)), mapped((0, 1, 10), (1, 5, 20)))
    kept, hashes, lost = system.settle()
    assert kept.pfn[:].tolist() == [10, 20]
    assert (hashes, lost) == ({10: 1001, 20: 2001}, 0)
    assert system.looks == [[10, 20]]


def test_a_frame_used_for_another_page_is_read_again() -> None:
    """Frame 10 is freed and then mapped elsewhere: its old content says nothing of the new page."""
    later = mapped((1, 5, 20), (2, 7, 10))
    system = System(mapped((0, 1, 10), (1, 5, 20)), later, later)
    kept, hashes, lost = system.settle()
    assert kept.vma_id[:].tolist() == [1, 2]
    assert (hashes, lost) == ({10: 1002, 20: 2001}, 0)
    assert system.looks == [[10, 20], [10]]


def test_a_frame_that_gets_one_mapping_more_is_not_read_again() -> None:
    later = mapped((0, 1, 10), (2, 1, 10))
    system = System(mapped((0, 1, 10)), later, later)
    kept, hashes, _ = system.settle()
    assert kept.pfn[:].tolist() == [10, 10]
    assert hashes == {10: 1001}
    assert system.looks == [[10]]


def test_what_never_holds_still_is_counted_and_left_out() -> None:
    walks = [mapped((0, 1, 10), (1, 0, 100 + n)) for n in range(20)]
    system = System(*walks)
    kept, _, lost = system.settle()
    assert kept.pfn[:].tolist() == [10]
    assert lost == 1
    assert kept.counts["unknown_pages"].tolist() == [0, 1, 0]
    assert len(system.looks) < 10


def test_a_pace_makes_reading_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("estimator.collect.load.time.monotonic", lambda: now[0])
    monkeypatch.setattr("estimator.collect.load.time.sleep", sleep)
    pace = Pace(100)
    for _ in range(10):
        now[0] += 0.05  # the work itself
        pace(10_000_000)
    Pace(None)(1 << 40)
    assert 0.99 < now[0] < 1.11  # 100 MB at 100 MB/s

"""Big arrays a piece at a time, against NumPy at once; pieces of three rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator import arrays as bulk
from estimator.errors import CannotAnswerError

WORDS = st.lists(st.integers(0, 12) | st.just(2**64 - 1), max_size=12)


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_PIECE_ROWS", 3)
        yield


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 10])
def test_the_same_as_numpy_at_once(rows: int) -> None:
    random = np.random.default_rng(rows)
    values = random.integers(0, 5, rows).astype(np.uint32)
    index = random.integers(-rows, rows, 2 * rows) if rows else np.zeros(0, np.int64)
    keep = random.integers(0, 2, rows).astype(np.bool_)
    assert [n for piece in bulk.pieces(rows) for n in range(rows)[piece]] == list(range(rows))
    assert bulk.take(values, index).tolist() == values[index].tolist()
    assert bulk.count(values, 6).tolist() == np.bincount(values, minlength=6).tolist()
    kept = values[keep].tolist()
    moved = bulk.move_up(values, keep)
    assert moved.tolist() == kept
    assert np.shares_memory(moved, values) or not kept


@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_side_by_side(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(bulk, "_MANY_ROWS", 4)
    monkeypatch.setattr(bulk, "THREADS", threads)
    index = np.arange(100)[::-1]
    assert bulk.take(np.arange(100), index).tolist() == index.tolist()

    def fail(piece: slice) -> None:
        if piece.start == 51:
            raise CannotAnswerError("of one piece")

    with pytest.raises(CannotAnswerError, match="of one piece"):
        bulk.each_piece(100, fail)


@given(WORDS.map(sorted), WORDS)
def test_found_is_what_is_there_and_nothing_else(ordered: list[int], wanted: list[int]) -> None:
    rows, found = bulk.find(np.array(ordered, np.uint64), np.array(wanted, np.uint64))
    assert rows.dtype == np.int64
    assert found.tolist() == [word in ordered for word in wanted]
    assert rows.tolist() == [ordered.index(word) for word in wanted if word in ordered]


def test_pages_of_many_mms_are_one_number_each() -> None:
    mms, pages = np.array([0, 1, 2**19 - 1]), np.array([7, 0, 2**45 - 1], np.uint64)
    assert bulk.page_keys(mms, pages).tolist() == [7, 2**45, 2**64 - 1]
    assert len(bulk.page_keys(mms[:0], pages[:0])) == 0
    with pytest.raises(CannotAnswerError, match="524,288 processes"):
        bulk.page_keys(mms + 1, pages)

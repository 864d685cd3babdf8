"""Columns in little memory: what comes out is what went in, and runs take next to nothing."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator import packed
from estimator.packed import Packed, add, like, side_by_side, used_up

TYPES = ["u1", "u2", "u4", "u8", "i4", "?"]


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "PIECE_ROWS", 4)
        yield


def numbers(dtype: str) -> Any:
    if dtype == "?":
        return st.booleans()
    info = np.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    near = st.integers(0, 3).map(lambda n: n + 100) | st.sampled_from(
        [low, low + 1, high - 1, high]
    )
    return near | st.integers(low, high)


def parts_of(dtype: str) -> Any:
    run = st.tuples(numbers(dtype), st.integers(0, 9), st.sampled_from([0, 1, -1]))
    runs = run.map(lambda r: (np.array(r[0]).astype("i8") + np.arange(r[1]) * r[2]).tolist())
    if dtype in ("u8", "?"):
        runs = st.lists(numbers(dtype), max_size=9)
    listed = st.lists(runs | st.lists(numbers(dtype), max_size=9), max_size=6)
    return listed.map(
        lambda parts: [np.array(p, "u8" if dtype == "u8" else "i8").astype(dtype) for p in parts]
    )


@settings(deadline=None)
@given(st.data(), st.sampled_from(TYPES), st.booleans())
def test_what_comes_out_went_in(data: Any, dtype: str, nullable: bool) -> None:
    parts = data.draw(parts_of(dtype))
    if nullable:
        parts = [np.ma.MaskedArray(p, np.arange(len(p)) % 3 == 0) for p in parts]
    column = Packed(dtype, nullable=nullable)
    for part in parts:
        column.append(part)
    expected = np.ma.concatenate([np.empty(0, dtype), *parts])  # type: ignore[no-untyped-call]
    column = pickle.loads(pickle.dumps(column))
    assert len(column) == len(expected)
    assert column[:].dtype == np.dtype(dtype)
    assert column[:].tolist() == expected.tolist()
    begin, end = data.draw(st.tuples(st.integers(0, 60), st.integers(0, 60)))
    assert column[begin:end].tolist() == expected[begin:end].tolist()
    pieces = [piece.tolist() for piece in column.pieces()]
    assert [len(piece) for piece in pieces[:-1]] == [4] * (len(pieces) - 1)
    assert [n for piece in pieces for n in piece] == expected.tolist()
    if len(expected):
        unsigned = np.ma.getdata(expected).view(f"u{expected.itemsize}")
        assert column.extremes == (int(unsigned.min()), int(unsigned.max()))
    assert [piece.tolist() for piece in column.drained()] == pieces
    assert len(column) == 0


def test_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="int64, not uint32"):
        Packed(np.uint32).append(np.arange(3))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_piece_can_be_changed(number: int) -> None:
    column = Packed.of(np.arange(10, dtype=np.uint8))
    values = column[number * 4 : number * 4 + 4] | np.uint8(128)
    column.change(number, values)
    expected = np.arange(10)
    expected[number * 4 : number * 4 + 4] += 128
    assert column[:].tolist() == expected.tolist()


def test_columns_side_by_side() -> None:
    columns = {"a": Packed.of(np.arange(9, dtype=np.uint32)), "b": Packed.of(np.ones(9, np.bool_))}
    again = like(columns)
    for values in side_by_side(columns):
        add(again, values, values["a"] % 2 == 0)
    assert again["a"][:].tolist() == [0, 2, 4, 6, 8]
    for values in used_up(columns):
        add(again, values)
    assert again["a"][:].tolist() == [0, 2, 4, 6, 8, *range(9)]
    assert again["b"].dtype == np.bool_
    assert len(columns["a"]) == 0


def held(column: Packed) -> int:
    return len(pickle.dumps(column))


def test_runs_take_next_to_nothing_and_the_rest_its_narrowest_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed, "PIECE_ROWS", 1 << 16)
    rows, random = 1 << 18, np.random.default_rng(1)
    up = np.arange(rows, dtype=np.uint64) + np.uint64(1 << 40)
    assert held(Packed.of(up)) < 4000
    assert held(Packed.of(up[::-1].copy())) < 4000
    assert held(Packed.of(np.full(rows, -1, np.int32))) < 4000
    assert (
        held(Packed.of(up + np.repeat(random.integers(0, 9, 64), rows // 64).astype("u8"))) < 6000
    )
    small = random.integers(1, 200, rows).astype(np.int32)
    assert held(Packed.of(small)) < rows + 4000
    pfns = random.permutation(rows).astype(np.uint64) + np.uint64(1 << 33)
    assert held(Packed.of(pfns)) < 4 * rows + 4000

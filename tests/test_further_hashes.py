"""Hashes of pieces and of nearly all of a page, and the words that are addresses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from estimator.arrays import Bytes, Columns
from estimator.collect.further_hashes import Areas, Further, Wanted, piece_bytes

SEED, PAGE = 7, 4096
BOTH = Wanted(pieces=True, near=True)
VMAS = [
    *((0, 0x1000, 0x2000), (0, 0x2800, 0x3000), (0, 0x8000, 0x9000)),
    *((1, 0x2000, 0x4000), (1, 5 << 32 | 0x2000, 6 << 32 | 0x3000)),
    *((3, 0x5000, 0x6000), (4, 0x7000, 2 << 32)),
]


def is_address(word: int, mm: int) -> bool:
    """Between the outermost VMAs: of those beyond 4 GiB the upper halves of addresses decide."""
    near = [(start, min(end, 1 << 32)) for of, start, end in VMAS if of == mm and start < 1 << 32]
    far = [(start, end) for of, start, end in VMAS if of == mm and end > 1 << 32]
    if word < 1 << 32:
        return any(start <= word for start, _ in near) and any(word < end for _, end in near)
    half = word >> 32
    return any(max(start >> 32, 1) <= half for start, _ in far) and any(
        half <= end - 1 >> 32 for _, end in far
    )


def areas() -> Areas:
    mm, start, end = (np.array(column, np.uint64) for column in zip(*VMAS, strict=True))
    return Areas(mm.astype(np.uint32), start, end)


def page(*words: int) -> Bytes:
    """One page that begins with these words."""
    whole = np.zeros((1, PAGE // 8), np.uint64)
    whole[0, : len(words)] = words
    return whole.view(np.uint8)


def hashes(data: Bytes, mm: list[int], of: Areas | None = None) -> Columns:
    further = Further(BOTH, SEED, of or areas(), PAGE)
    further.room.data[:] = 0xA5  # of what was there before
    further.room.data[: len(data)] = data
    return further.hashes(np.array(mm))


def no_address(data: Bytes, mm: int) -> int:
    return int(hashes(data, [mm])["no_address_hash"][0])


def digest(content: bytes) -> int:
    return xxh3_64_intdigest(content, SEED)


@given(
    st.lists(
        st.sampled_from([*range(0, 0xA000, 0x7FF), 1 << 63, (5 << 32) - 1, 5 << 32, 7 << 32])
        | st.integers(5 << 32, (7 << 32) - 1),
        max_size=9,
    ),
    st.integers(-1, 4),
)
def test_a_word_in_an_area_of_the_mm_is_an_address(words: list[int], mm: int) -> None:
    kept = [0 if is_address(word, mm) else word for word in words]
    assert no_address(page(*words), mm) == digest(page(*kept).tobytes())


def test_pages_of_several_processes_in_one_go() -> None:
    data = np.concatenate([page(5, 0x1000), page(5, 0x3FFF), page(5, 0x1000), page(5)])
    found = hashes(data, [0, 1, 1, 0])
    without = found["no_address_hash"].tolist()
    assert without[0] == without[1] == without[3] == digest(page(5).tobytes())
    assert without[2] == found["hash"][2] == digest(page(5, 0x1000).tobytes())


def test_what_is_read_stays_as_it_is_and_room_is_filled_again() -> None:
    further = Further(BOTH, SEED, areas(), PAGE)
    for of in (0, 1, -1, 0):
        further.room.data[:3] = np.concatenate([page(5, 0x1000), page(6), page(7, 0x3000)])
        kept = further.room.data.copy()
        found = further.hashes(np.array([of] * 3))
        assert (further.room.data == kept).all()
        first, _, third = found["no_address_hash"].tolist()
        assert (first == digest(page(5).tobytes())) == (of == 0)
        assert (third == digest(page(7).tobytes())) == (of >= 0)


WORDS = st.sampled_from(
    [0, 5, 0xFFF, 0x1000, 0x2FFF, 0x3FFF, 0x5800, 0x8FFF, 0x9000, 1 << 32, 2 << 32, (2 << 32) - 1]
    + [(5 << 32) - 1, 5 << 32, 6 << 32 | 0x3000, 7 << 32, (1 << 64) - 1]
)


@given(st.lists(st.tuples(st.integers(-1, 4), WORDS, WORDS), min_size=1, max_size=8))
def test_whose_page_it_is_counts_row_by_row(rows: list[tuple[int, int, int]]) -> None:
    words = np.array([row[1:] for row in rows], np.uint64)
    mm = np.array([row[0] for row in rows])
    expected = [[is_address(word, of) for word in two] for of, *two in rows]
    without = np.empty_like(words)
    found = areas().without_addresses(words, mm, without)
    assert found.tolist() == [n for n, inside in enumerate(expected) if any(inside)]
    assert (without[: len(found)] == np.where(expected, 0, words)[found]).all()


def test_the_ends_are_left_out_and_pieces_are_in_order() -> None:
    data = np.random.default_rng(1).integers(0, 256, (3, PAGE), dtype=np.uint8)
    found = hashes(data, [-1] * 3)
    assert set(found) == {"hash", *BOTH.columns(PAGE)}
    for row, content in enumerate(map(bytes, data)):
        assert found["hash"][row] == digest(content)
        assert found["near_hash"][row] == digest(content[64:-64])
        for number in range(4):
            piece = content[number * 1024 : (number + 1) * 1024]
            assert found[f"piece_hash_{number}"][row] == digest(piece)


@pytest.mark.parametrize(("bytes_", "pieces", "size"), [(4096, 4, 1024), (65536, 16, 4096)])
def test_how_many_pieces_a_page_has(bytes_: int, pieces: int, size: int) -> None:
    assert list(Wanted(pieces=True).columns(bytes_)) == [f"piece_hash_{n}" for n in range(pieces)]
    assert piece_bytes(bytes_) == size
    found = Wanted(pieces=True).info(SEED, bytes_)
    assert found == {"piece_bytes": size, "zero_piece_hash": digest(bytes(size))}
    assert Wanted(near=True).info(SEED, bytes_) == {}


def test_no_vma_at_all() -> None:
    none = np.zeros(0, np.uint64)
    found = hashes(page(1, 2), [-1], Areas(none.astype(np.uint32), none, none))
    assert found["no_address_hash"][0] == found["hash"][0]

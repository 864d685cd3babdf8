"""Which frames are KSM's where every anonymous page has KPF_KSM: what smaps counts leaves over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.collect.mappings import Mapped, Rows
from estimator.packed import Packed, packed
from estimator.procfs import merged_frames
from estimator.procfs.merged_frames import mark_ksm
from estimator.procfs.page_flags import KPF_KSM
from estimator.snapshot.flags import FrameKind

ANON, KSM, DIRTY = int(FrameKind.ANONYMOUS), int(FrameKind.KSM), np.uint64(1 << 4)


def marked(
    vmas: list[list[int]],
    merged: list[int],
    *,
    start: list[int] | None = None,
    large: int = 0,
    clean: int = 0,
) -> tuple[int, list[int]]:
    """How many stay open, and the kind of frames 5, 6, 7 ...; ``vmas``: their pages, as frames."""
    count = max(max(pages) for pages in vmas) - 4
    mapped = Mapped({}, np.zeros(len(vmas), np.uint64))
    rows = Rows(
        vma_id=np.repeat(np.arange(len(vmas), dtype=np.uint32), [len(pages) for pages in vmas]),
        page_index=np.concatenate([np.arange(len(pages), dtype=np.uint64) for pages in vmas]),
        pfn=np.concatenate([np.array(pages, np.uint64) for pages in vmas]),
        flags=np.zeros(sum(map(len, vmas)), np.uint8),
    )
    mapped.append(rows)
    order = np.zeros(count, np.uint8)
    order[:large] = 2
    facts = packed({"kind": np.full(count, KSM, np.uint8), "order": order})
    words = np.full(count, DIRTY | KPF_KSM, np.uint64)
    words[:clean] = KPF_KSM
    starts = np.array(start or [0x1000] * len(vmas), np.uint64)
    smaps = {"KSM": np.array(merged, np.uint64)}
    pfns = Packed.of(np.arange(5, 5 + count, dtype=np.uint64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merged_frames, "frame_words", lambda name, pfns: words[pfns - 5])
        still_open = mark_ksm(facts, pfns, mapped, starts, smaps)
    return still_open, facts["kind"][:].tolist()


def test_all_or_none_is_enough() -> None:
    assert marked([[5, 6], [6, 7]], [2, 1]) == (0, [KSM, KSM, ANON])
    assert marked([[5, 6], [7, 8]], [2, 0]) == (0, [KSM, KSM, ANON, ANON])


def test_how_many_leaves_it_open() -> None:
    assert marked([[5, 6]], [1]) == (2, [ANON, ANON])


def test_a_page_at_two_addresses_is_merged() -> None:
    assert marked([[5, 6], [5]], [1, 1], start=[0x1000, 0x9000]) == (0, [KSM, ANON])
    assert marked([[5, 6], [5]], [1, 1]) == (0, [KSM, ANON])  # the second VMA says it
    assert marked([[5, 5, 6]], [2]) == (0, [KSM, ANON])


def test_a_page_of_a_large_folio_is_not() -> None:
    assert marked([[5, 6, 7]], [1], large=2) == (0, [ANON, ANON, KSM])


def test_what_one_vma_tells_helps_in_the_next() -> None:
    vmas = [[5], [5, 6], [6, 7], [7, 8]]
    assert marked(vmas, [1, 1, 1, 2], start=[0x1000, 0x1000, 0x2000, 0x3000]) == (
        0,
        [KSM, ANON, KSM, KSM],
    )


def test_a_clean_page_is_not() -> None:
    assert marked([[5, 6, 7]], [1], clean=2) == (0, [ANON, ANON, KSM])


@pytest.mark.parametrize("counted", [0, 3])
def test_counts_of_another_moment_invent_nothing(counted: int) -> None:
    """smaps and page tables are not read at one moment."""
    still_open, kinds = marked([[5, 5], [6, 7]], [counted, 1])
    assert still_open == 2
    assert kinds[1:] == [ANON, ANON]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(5, 12), min_size=1, max_size=6, unique=True), min_size=1),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_what_is_said_to_be_merged_is(vmas: list[list[int]], truth: list[bool]) -> None:
    """Pages keep their address, as after fork() alone: counts decide, and never wrongly."""
    rows = [[5 + n if 5 + n in pages else 13 + n for n in range(8)] for pages in vmas]
    merged = [sum(truth[frame - 5] for frame in pages) for pages in vmas]
    still_open, kinds = marked(rows, merged)
    wrong = [n for n in range(8) if n < len(kinds) and kinds[n] == KSM and not truth[n]]
    assert not wrong
    missed = sum(truth[n] and kinds[n] != KSM for n in {f - 5 for pages in vmas for f in pages})
    assert missed <= still_open

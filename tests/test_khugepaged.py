"""What khugepaged may collapse, and the bounds of pages_sharing that follow."""

from __future__ import annotations

import pytest

from estimator.ksm.khugepaged import Bounds
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.vm_flags import VALUES
from tests.synthetic import Frame, System, small

HUGE = 512


def bounds_of(system: System) -> Bounds | None:
    found = predict(system.snapshot(), Policy(scope="enabled"))
    text = " ".join(found.warnings)
    assert ("khugepaged" in text) == (found.khugepaged is not None)
    if found.khugepaged:
        assert f"between {found.khugepaged.least_pages_sharing} and" in text
        least, most = found.khugepaged.least_pages_sharing, found.khugepaged.most_pages_sharing
        assert least <= found.counters["pages_sharing"] <= most
    return found.khugepaged


def system_of(*each: list[Frame], kernel: str = "6.12", mode: str = "always") -> System:
    system = System(kernel)
    system.processes_with(*each)
    system.thp_enabled = mode
    return system


def test_what_lies_outside_of_the_blocks_stays_merged() -> None:
    pages = range(1, HUGE + 41)
    found = bounds_of(system_of(*(small(*pages) for _ in range(3))))
    assert found == Bounds("always", 2 * 40, 2 * (HUGE + 40))


def test_nodes_of_one_content_are_counted_once_each() -> None:
    """Seven copies outside, three of them on a node of their own."""
    system = System("6.12", max_page_sharing=4)
    system.thp_enabled = "always"
    for number in range(7):
        system.process(*small(*range(number * 1000 + 1, number * 1000 + HUGE + 1), 9999))
    assert bounds_of(system) == Bounds("always", 7 - 2, 7 - 2)


def test_pages_shared_by_fork_can_merge_once_they_are_copied() -> None:
    system = System("6.12")
    system.thp_enabled = "always"
    system.fork(system.process(*small(*range(1, HUGE + 11))), 3)
    assert bounds_of(system) == Bounds("always", 0, 3 * HUGE)


@pytest.mark.parametrize(
    ("kernel", "locked", "zeroes"),
    [("6.1", False, 2 * HUGE - 3), ("6.12", False, 0), ("6.12", True, 2 * HUGE - 3)],
)
def test_holes_are_filled_with_zeroes(kernel: str, locked: bool, zeroes: int) -> None:
    """Pages in two blocks of four: a block without a page is not collapsed."""
    system = System(kernel)
    system.thp_enabled = "always"
    vma = system.process().map([], locked=locked)
    for index, frame in zip((5, 6, HUGE * 2, HUGE * 4 + 1), small(1, 2, 3, 4), strict=True):
        vma.pages[index] = (frame, 0)
    assert bounds_of(system) == Bounds("always", 0, zeroes)


@pytest.mark.parametrize("rows_at_once", [1, 2, 7, 65_536])
def test_pieces_do_not_matter(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator.snapshot.stored_table._ROWS_AT_ONCE", rows_at_once)
    system = System("6.1")
    system.thp_enabled = "always"
    for number in range(3):
        vma = system.process().map([])
        for index, frame in zip(
            (5, 6, HUGE * 2, HUGE * 4), small(1, 2, 90 + number, 4), strict=True
        ):
            vma.pages[index] = (frame, 0)
        vma.pages[HUGE * 4 + 5] = (small(7)[0], 0)  # not a whole block
    assert bounds_of(system) == Bounds("always", 2 + 2, 4 * 2 + 3 * (2 * HUGE - 3))


def test_swapped_pages_are_read_in() -> None:
    system = system_of(small(*range(HUGE)))
    system.processes[0].vmas[0].swap_pages = 3
    assert bounds_of(system) == Bounds("always", 0, 3)


def test_under_madvise_only_what_asked_for_it_is_collapsed() -> None:
    pages = range(1, HUGE + 1)
    system = system_of(small(*pages), small(*pages), mode="madvise")
    assert bounds_of(system) is None
    system.processes[0].vmas[0].vm_flags = VALUES["hugepage"]
    assert bounds_of(system) == Bounds("madvise", 0, HUGE)


def test_what_it_leaves_alone() -> None:
    pages = range(1, HUGE + 1)
    closed = system_of(small(*pages), small(*pages))
    for process in closed.processes:
        process.vmas[0].vm_flags = VALUES["nohugepage"]
    assert bounds_of(closed) is None
    assert bounds_of(system_of(small(*range(1, HUGE)))) is None  # no whole block
    unmergeable = system_of(small(*pages))
    unmergeable.processes[0].vmas[0].mergeable = False
    assert bounds_of(unmergeable) is None


@pytest.mark.parametrize(
    ("kernel", "of_all", "orders", "block_pages"),
    [
        ("6.12", "always", {"inherit": 1 << 9}, 512),
        ("6.12", "never", {"inherit": 1 << 9}, 0),
        ("6.12", "always", {"inherit": 1 << 4}, 0),  # huge pages themselves are off
        ("6.12", "never", {"always": 1 << 9}, 512),
        ("6.12", "never", {"always": 1 << 4}, 0),
        ("7.3", "never", {"always": 1 << 4 | 1 << 9}, 16),
        ("7.3", "never", {"always": 1 << 1}, 0),
        ("7.3", "always", {"always": 1 << 1, "inherit": 1 << 2}, 4),
        ("7.3", "madvise", {"inherit": 1 << 4}, 0),  # nobody asked for them
    ],
)
def test_it_goes_by_the_sizes_that_are_enabled(
    kernel: str, of_all: str, orders: dict[str, int], block_pages: int
) -> None:
    pages = range(1, HUGE + 4)  # three behind the last whole block of any size
    system = system_of(small(*pages), small(*pages), kernel=kernel, mode=of_all)
    system.thp_orders = {"always": 0, "madvise": 0, "inherit": 0} | orders
    found = bounds_of(system)
    assert found == (Bounds("always", 3, HUGE + 3) if block_pages else None)


def test_advised_vmas_are_collapsed_to_smaller_sizes_too() -> None:
    system = system_of(small(*range(1, 21)), small(*range(1, 21)), kernel="7.3", mode="never")
    system.thp_orders = {"always": 1 << 9, "madvise": 1 << 4, "inherit": 0}
    assert bounds_of(system) is None
    system.processes[1].vmas[0].vm_flags = VALUES["hugepage"]
    assert bounds_of(system) == Bounds("always", 4, 20)


def test_the_bounds_in_words() -> None:
    assert str(Bounds("madvise", 1000, 2_000_000)) == (
        "Transparent huge pages are enabled (madvise): khugepaged may collapse again what ksmd has "
        "merged or split, and there is no strict state at rest then. The numbers are those without "
        "khugepaged; with it, pages_sharing moves between 1,000 and 2,000,000."
    )

"""Worked examples, measured on real kernels: what ksmd showed at rest, to the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.snapshot.flags import FrameFlag, MappingFlag
from tests.synthetic import Frame, System, folio, small

ENABLED = Policy(scope="enabled")
COUNTERS = (
    "pages_shared",
    "pages_sharing",
    "pages_unshared",
    "pages_volatile",
    "stable_node_chains",
    "stable_node_dups",
)


def rest(system: System) -> Prediction:
    return predict(system.snapshot(), ENABLED)


def six(prediction: Prediction) -> tuple[int, ...]:
    return tuple(prediction.counters[name] for name in COUNTERS)


def same_pages(copies: int, **ksm: Any) -> System:
    system = System(**ksm)
    for _ in range(copies):
        system.process(*small(7))
    return system


def test_01_identical_small_pages() -> None:
    system = System()
    for _ in range(8):
        system.process(*small(*range(1, 1001)))
    found = rest(system)
    assert six(found) == (1000, 7000, 0, 0, 0, 0)
    assert set(found.processes["ksm_rmap_items"]) == {1000}
    assert set(found.processes["ksm_merging_pages"]) == {1000}
    assert set(found.processes["ksm_process_profit"]) == {4032000}
    assert set(found.vmas["smaps_ksm_pages"]) == {1000}
    assert found.counters["general_profit"] == 7000 * 4096 - 8000 * 64
    assert found.physical["frames_freed"] == 7000
    assert found.scans == 2


@pytest.mark.parametrize(
    ("copies", "limit", "expected"),
    [
        (300, 256, (2, 298, 0, 0, 1, 2)),
        (256, 256, (1, 255, 0, 0, 0, 0)),
        (257, 256, (1, 255, 1, 0, 0, 0)),
        (512, 256, (2, 510, 0, 0, 1, 2)),
        (513, 256, (2, 510, 1, 0, 1, 2)),
        (3, 2, (1, 1, 1, 0, 0, 0)),
        (4, 2, (2, 2, 0, 0, 1, 2)),
        (5, 2, (2, 2, 1, 0, 1, 2)),
        (6, 2, (3, 3, 0, 0, 1, 3)),
    ],
)
def test_02_to_05_max_page_sharing(copies: int, limit: int, expected: tuple[int, ...]) -> None:
    assert six(rest(same_pages(copies, max_page_sharing=limit))) == expected


def test_06_shared_by_fork_alone() -> None:
    system = System()
    system.fork(system.process(*small(*range(1, 2001))), 7)
    found = rest(system)
    assert six(found) == (0, 0, 2000, 14000, 0, 0)
    assert found.scans == 2
    assert found.physical["frames_freed"] == 0


@pytest.mark.parametrize(("outsider_first", "scans"), [(False, 3), (True, 2)])
def test_07_shared_by_fork_and_one_copy(outsider_first: bool, scans: int) -> None:
    system = System()
    if outsider_first:
        system.process(*small(*range(1, 2001)))
    system.fork(system.process(*small(*range(1, 2001))), 7)
    if not outsider_first:
        system.process(*small(*range(1, 2001)))
    found = rest(system)
    assert six(found) == (2000, 16000, 0, 0, 0, 0)
    assert found.scans == scans
    assert found.physical["frames_freed"] == 2000


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0, 1, (1, 7, 1, 22, 0, 0)),
        (1, 0, (1, 30, 0, 0, 0, 0)),
        (0, 2, (1, 7, 1, 23, 0, 0)),
    ],
)
def test_08_to_10_forks_beyond_the_limit(
    before: int, after: int, expected: tuple[int, ...]
) -> None:
    system = System(max_page_sharing=8)
    for _ in range(before):
        system.process(*small(7))
    system.fork(system.process(*small(7)), 29)
    for _ in range(after):
        system.process(*small(7))
    assert six(rest(system)) == expected


@pytest.mark.parametrize(
    ("pinned", "expected"),
    [(0, (0, 0, 1, 4, 0, 0)), (2, (1, 3, 0, 1, 0, 0)), (4, (1, 3, 0, 1, 0, 0))],
)
@pytest.mark.parametrize("kernel", ["6.12", "7.3"])
def test_11_12_pinned_page(kernel: str, pinned: int, expected: tuple[int, ...]) -> None:
    system = System(kernel)
    for place in range(5):
        system.process(*small(7, pins=1 if place == pinned else 0))
    assert six(rest(system)) == expected


def test_13_pinned_first_makes_orphans() -> None:
    system = System()
    system.process(*small(7, pins=1))
    system.fork(system.process(*small(7)), 2)
    system.processes_with(small(7), small(7))
    found = rest(system)
    assert six(found) == (0, 0, 1, 5, 0, 0)
    assert found.vmas["smaps_ksm_pages"].tolist() == [0, 0, 1, 1, 0, 0]
    assert found.physical["frames_freed"] == -1  # break_cow() made a copy


@pytest.mark.parametrize(
    ("pinned", "others", "expected", "scans"),
    [
        (1, 4, (1, 3, 0, 1, 0, 0), 8),
        (2, 2, (1, 1, 0, 2, 0, 0), 8),
        (1, 1, (0, 0, 1, 1, 0, 0), 2),  # the two take turns in the tree
    ],
)
def test_smart_scan_lets_others_pass_a_pinned_first_page(
    pinned: int, others: int, expected: tuple[int, ...], scans: int
) -> None:
    system = System("7.3", smart_scan=1)
    system.processes_with(*(small(7, pins=1) for _ in range(pinned)))
    system.processes_with(*(small(7) for _ in range(others)))
    found = rest(system)
    assert six(found) == expected
    assert found.scans == scans


@pytest.mark.parametrize("limit", [2, 3])
def test_a_full_node_leaves_the_pinned_first_page_in_the_tree(limit: int) -> None:
    system = System("7.3", smart_scan=1, max_page_sharing=limit)
    system.process(*small(7, pins=1))
    system.processes_with(*(small(7) for _ in range(limit)))
    assert six(rest(system)) == (1, limit - 1, 1, 0, 0, 0)


def test_smart_scan_does_not_skip_orphans() -> None:
    """Example 13: the copy that break_cow() made passes them, as it comes before."""
    system = System("7.3", smart_scan=1)
    system.process(*small(7, pins=1))
    system.fork(system.process(*small(7)), 2)
    system.processes_with(small(7), small(7))
    found = rest(system)
    assert six(found) == (1, 2, 0, 3, 0, 0)
    assert found.vmas["smaps_ksm_pages"].tolist() == [0, 1, 1, 1, 1, 1]
    assert found.scans == 8


def zero_pages(
    kernel: str, make: Callable[[System], list[Frame]], times: int, **ksm: Any
) -> System:
    system = System(kernel, **ksm)
    for _ in range(times):
        system.process(*make(system))
    return system


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(
    ("use_zero_pages", "expected", "zero", "rmap_items"),
    [(0, (1, 19, 10, 0, 0, 0), 0, 15), (1, (0, 0, 10, 0, 0, 0), 20, 5)],
)
def test_14_15_small_zero_pages(
    kernel: str, use_zero_pages: int, expected: tuple[int, ...], zero: int, rmap_items: int
) -> None:
    system = zero_pages(
        kernel,
        lambda s: small(*[0] * 10, *s.unique(5)),
        2,
        use_zero_pages=use_zero_pages,
    )
    found = rest(system)
    assert six(found) == expected
    assert found.counters["ksm_zero_pages"] == (zero if kernel == "6.12" else 0)
    assert set(found.processes["ksm_rmap_items"]) == {rmap_items}
    assert found.physical["frames_freed"] == (20 if use_zero_pages else 19)


def huge_with(zeros: int, **facts: Any) -> Callable[[System], list[Frame]]:
    return lambda s: folio([0] * zeros + s.unique(512 - zeros), **facts)


@pytest.mark.parametrize(
    ("kernel", "zeros", "times", "expected", "scans"),
    [
        ("6.12", 10, 2, (0, 0, 1004, 0, 0, 0), 4),  # example 16
        ("6.1", 10, 2, (1, 19, 1004, 0, 0, 0), 3),
        ("6.12", 1, 2, (0, 0, 1023, 0, 0, 0), 3),  # example 19
        ("6.1", 1, 2, (1, 1, 1022, 0, 0, 0), 2),
        ("6.12", 3, 4, (0, 0, 2036, 0, 0, 0), 6),  # example 20
        ("6.1", 3, 4, (1, 11, 2036, 0, 0, 0), 3),
    ],
)
def test_16_19_20_zero_pieces_of_huge_pages(
    kernel: str, zeros: int, times: int, expected: tuple[int, ...], scans: int
) -> None:
    found = rest(zero_pages(kernel, huge_with(zeros), times))
    assert six(found) == expected
    assert found.scans == scans
    gone = times * zeros if kernel == "6.12" else times * zeros - 1
    if zeros == 1 and kernel == "6.12":
        gone = 1  # the first one stays whole
    assert found.physical["frames_freed"] == gone


def test_17_use_zero_pages_counts_nothing_that_the_split_took() -> None:
    found = rest(zero_pages("6.12", huge_with(10), 2, use_zero_pages=1))
    assert six(found) == (0, 0, 1004, 0, 0, 0)
    assert found.counters["ksm_zero_pages"] == 0
    assert found.physical["frames_freed"] == 20


@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize(
    ("use_zero_pages", "expected", "zero"),
    [(0, (1, 19, 1004, 0, 0, 0), 0), (1, (0, 0, 1004, 0, 0, 0), 20)],
)
def test_18_locked_memory_keeps_its_zero_pieces(
    flagged: bool, use_zero_pages: int, expected: tuple[int, ...], zero: int
) -> None:
    system = System(use_zero_pages=use_zero_pages)
    for _ in range(2):
        flags = FrameFlag.LRU | (FrameFlag.MLOCKED if flagged else 0)
        system.process(*huge_with(10, flags=flags)(system), locked=not flagged)
    found = rest(system)
    assert six(found) == expected
    assert found.counters["ksm_zero_pages"] == zero


@pytest.mark.parametrize(
    ("kernel", "expected"), [("6.12", (1, 1, 2036, 0, 0, 0)), ("6.1", (1, 13, 2036, 0, 0, 0))]
)
def test_21_huge_pages_and_small_zero_pages(kernel: str, expected: tuple[int, ...]) -> None:
    system = zero_pages(kernel, huge_with(3), 4)
    system.process(*small(0, 0))
    assert six(rest(system)) == expected


@pytest.mark.parametrize(
    ("kernel", "expected"), [("6.12", (1, 1, 502, 1506, 0, 0)), ("6.1", (1, 41, 502, 1506, 0, 0))]
)
def test_22_huge_page_shared_by_fork(kernel: str, expected: tuple[int, ...]) -> None:
    system = System(kernel)
    system.fork(system.process(*huge_with(10)(system)), 3)
    system.process(*small(0, 0))
    assert six(rest(system)) == expected


@pytest.mark.parametrize(
    ("kernel", "expected", "scans"),
    [
        ("6.12", (1, 3, 511, 2, 0, 0), 3),
        ("7.3", (1, 3, 511, 2, 0, 0), 4),
        ("6.1", (1, 6, 511, 0, 0, 0), 2),
    ],
)
def test_23_lone_zero_piece_before_forked_zero_pages(
    kernel: str, expected: tuple[int, ...], scans: int
) -> None:
    system = zero_pages(kernel, huge_with(1), 1)
    system.fork(system.process(*small(0, 0)), 2)
    found = rest(system)
    assert six(found) == expected
    assert found.scans == scans
    if kernel != "6.1":
        assert found.vmas["smaps_ksm_pages"].tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize(("copies", "sharing"), [(2, 1), (5, 4)])
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_24_same_content_within_one_huge_page(kernel: str, copies: int, sharing: int) -> None:
    system = System(kernel)
    system.process(*folio([7] * copies + system.unique(512 - copies)))
    found = rest(system)
    assert six(found) == (1, sharing, 512 - copies, 0, 0, 0)
    assert found.scans == 3


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_25_forked_huge_page_and_a_copy_of_one_piece(kernel: str) -> None:
    system = System(kernel)
    system.fork(system.process(*folio([7, *system.unique(511)])), 3)
    system.process(*small(7))
    assert six(rest(system)) == (1, 4, 511, 1533, 0, 0)


@pytest.mark.parametrize(
    ("outsiders", "expected"), [(0, (3, 18, 0, 0, 0, 0)), (2, (6, 21, 0, 0, 3, 6))]
)
def test_26_forks_of_merged_pages(outsiders: int, expected: tuple[int, ...]) -> None:
    system = System(max_page_sharing=4)
    merged = small(1, 2, 3)
    for frame in merged:
        system.stable_node(frame)
    system.process(*merged, flags=MappingFlag.MERGED)
    parent = system.process(*merged, flags=MappingFlag.MERGED)
    for _ in range(5):
        system.process(*(frame for frame, _ in parent.vmas[0].pages.values()))
    for _ in range(outsiders):
        system.process(*small(1, 2, 3))
    assert six(rest(system)) == expected


@pytest.mark.parametrize(("across", "expected"), [(1, (10, 30)), (0, (20, 20))])
def test_27_two_nodes(across: int, expected: tuple[int, int]) -> None:
    system = System(merge_across_nodes=across)
    for place in range(4):
        system.process(*small(*range(1, 11), node=place % 2))
    assert six(rest(system)) == (*expected, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("kernel", "expected"), [("6.12", (10, 10, 0, 0, 0, 0)), ("6.1", (0, 0, 1, 19, 0, 0))]
)
def test_28_prot_none(kernel: str, expected: tuple[int, ...]) -> None:
    system = System(kernel)
    for _ in range(2):
        system.process(*small(*range(1, 11)), flags=MappingFlag.PROT_NONE)
    assert six(rest(system)) == expected


def test_29_private_file_mappings_count_their_copied_pages() -> None:
    system = System()
    for _ in range(3):
        system.process(*small(*range(1, 8)), name="/tmp/file")
    found = rest(system)
    assert six(found) == (7, 14, 0, 0, 0, 0)
    assert set(found.processes["ksm_rmap_items"]) == {7}


def test_30_folios_of_64_kib() -> None:
    system = System()
    for _ in range(2):
        process = system.process()
        process.map([f for _ in range(3) for f in folio([0, 0, *system.unique(14)])])
    found = rest(system)
    assert six(found) == (0, 0, 84, 0, 0, 0)
    assert found.scans == 8


def test_31_smart_scan() -> None:
    system = System(smart_scan=1)
    system.process(*small(*system.unique(100)))
    system.processes_with(small(*range(1, 51)), small(*range(1, 51)))
    found = rest(system)
    assert six(found) == (50, 50, 100, 0, 0, 0)
    assert found.unmerged_readings() == [
        {"pages_unshared": 100, "pages_volatile": 0},
        {"pages_unshared": 0, "pages_volatile": 100},
    ]

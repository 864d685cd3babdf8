"""What a kernel made by hand counts and how its KSM is set, and what of it contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from estimator.arrays import Columns
from estimator.kernel.cross_checks import (
    anonymous_pages,
    contradictions,
    missing_anonymous_pages,
)
from estimator.kernel.ksm_settings import (
    features,
    read_settings,
    struct_sizes,
    thp_enabled,
    thp_orders,
)
from estimator.kernel.stable_tree import StableTree
from estimator.packed import packed
from estimator.snapshot.flags import FrameKind
from tests.fake_processes import FakeProcesses
from tests.fake_structs import CONSTANTS, STRUCTS, STRUCTS_6_1

CPU_AREA = 0x1000


def summed(*counts: tuple[int, tuple[int, int]]) -> tuple[FakeProcesses, Any]:
    """A kernel with two of four CPUs online; mms with these counters: common, per CPU 0 and 2."""
    kernel = FakeProcesses()
    kernel.integer("nr_cpu_ids", 4)
    kernel.global_("__cpu_online_mask", "cpumask", {"bits": [0b0101]})
    offsets = [CPU_AREA * (cpu + 1) for cpu in range(4)]
    kernel.array("__per_cpu_offset", offsets)
    size = kernel.sizeof("percpu_counter")
    for number, (common, of_cpus) in enumerate(counts):
        base = 0xFFFF_8880_0800_0000 + 8 * number
        for cpu in range(4):
            kernel.write(base + offsets[cpu], (9999).to_bytes(4, "little"))  # offline ones, too
        for cpu, value in zip((0, 2), of_cpus, strict=True):
            kernel.write(base + offsets[cpu], value.to_bytes(4, "little", signed=True))
        mm = kernel.mm()
        counter = mm + kernel.offset("mm_struct", "rss_stat") + size  # MM_ANONPAGES
        kernel.set("percpu_counter", counter, {"count": common, "counters": base})
    return kernel, kernel.read_mms()


def test_anonymous_pages_are_summed_over_the_online_cpus() -> None:
    kernel, mms = summed((100, (7, -3)), (-4, (1, 1)), (5, (0, 0)))
    assert anonymous_pages(kernel.prog, kernel.memory, mms.addresses) == 104 + 5


def test_a_counter_that_can_not_be_read_is_zero() -> None:
    kernel, mms = summed((100, (7, -3)))
    counter = mms.addresses[0] + np.uint64(kernel.offset("mm_struct", "rss_stat"))
    place = int(counter) + kernel.sizeof("percpu_counter")
    kernel.set("percpu_counter", place, {"counters": 0xFFFF_8888_0000_0000})
    assert anonymous_pages(kernel.prog, kernel.memory, mms.addresses) == 0


def test_anonymous_pages_before_the_counters_were_per_cpu() -> None:
    kernel = FakeProcesses(STRUCTS_6_1)
    for pages in (100, 20):
        counts = b"".join(n.to_bytes(8, "little") for n in (900, pages, 800, 700))
        kernel.mm({"rss_stat.count": counts})
    mms = kernel.read_mms()
    assert anonymous_pages(kernel.prog, kernel.memory, mms.addresses) == 120


def vma_table(*nonpresent: int) -> Columns:
    """One VMA per mm."""
    number = len(nonpresent)
    return {
        "mm_id": np.arange(number, dtype=np.uint32),
        "nonpresent_pages": np.array(nonpresent, np.uint64),
        "unknown_pages": np.ones(number, np.uint64),
    }


def test_missing_pages_of_one_mm_are_not_made_up_for_by_another() -> None:
    """Migration entries and what is known as unknown are not missing."""
    kernel, mms = summed((10, (0, 0)), (10, (0, 0)))
    mappings = packed({"vma_id": np.array([0, 0, 1] + [1] * 20)})
    args = (kernel.prog, kernel.memory, mms.addresses, mms.columns, vma_table(3, 0), mappings)
    assert missing_anonymous_pages(*args) == 10 - (2 + 3 + 1)


@pytest.mark.parametrize(("threads", "missing"), [(1, 200 - 64 - 1), (4, 0)])
def test_what_threads_keep_to_themselves_is_not_missing(threads: int, missing: int) -> None:
    """TASK_RSS_EVENTS_THRESH pages a thread, until 6.2."""
    kernel = FakeProcesses(STRUCTS_6_1)
    mm = kernel.mm({"rss_stat.count": bytes(8) + (200).to_bytes(8, "little")})
    kernel.task(1, mm, threads=threads)
    mms = kernel.read_mms()
    mappings = packed({"vma_id": np.empty(0, np.uint32)})
    args = (kernel.prog, kernel.memory, mms.addresses, mms.columns, vma_table(0), mappings)
    assert missing_anonymous_pages(*args) == missing


def judged(
    *,
    map_count: int = 2,
    mapcount: int = 2,
    ksm_on_node: bool = True,
    live: bool = True,
    counters: Mapping[str, int] | None = None,
) -> list[str]:
    """Contradictions of two frames, the first a KSM page, in two VMAs of one process."""
    frame_id = np.ma.MaskedArray(np.zeros(1, np.uint32), [not ksm_on_node])
    tree = StableTree({"live": np.array([live]), "frame_id": frame_id}, {}, 1, 1, 0)
    kind = np.array([FrameKind.KSM, FrameKind.ANONYMOUS])
    frames: Columns = {"pfn": np.array([7, 8]), "mapcount": np.array([mapcount, 1]), "kind": kind}
    return contradictions(
        np.array([map_count]),
        {"mm_id": np.array([0, 0])},
        packed({"frame_id": np.array([0, 1, 0])}),
        packed(frames),
        tree,
        {"pages_shared": 1, "pages_sharing": 1} if counters is None else counters,
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"map_count": 3}, ["1 processes have more or fewer VMAs"]),
        ({"mapcount": 3}, ["1 frames are mapped more or less often"]),
        ({"counters": {"pages_shared": 4}}, ["holds 1 pages_shared, ksmd counts 4"]),
        ({"counters": {"pages_sharing": 0}}, ["holds 1 pages_sharing, ksmd counts 0"]),
        ({"ksm_on_node": False}, []),  # each by itself happens
        ({"ksm_on_node": False, "live": False}, ["1 KSM pages are on no stable node, 1 nodes"]),
    ],
)
def test_contradictions(changed: dict[str, Any], expected: list[str]) -> None:
    found = judged(**changed)
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text


# ksm_settings.py


def test_tunables_and_counters_that_the_kernel_has() -> None:
    kernel = FakeProcesses()
    for name, value in (("ksm_run", 1), ("ksm_max_page_sharing", 256), ("ksm_advisor", 1)):
        kernel.integer(name, value)
    kernel.integer("ksm_pages_sharing", 77)
    kernel.global_("ksm_zero_pages", "atomic_long", {"counter": 5})  # 6.10+
    kernel.global_("ksm_scan", "ksm_scan", {"seqnr": 9})
    kernel.variable("ksm_pages_shared", "unsigned long", 0xFFFF_8888_0000_0000)  # lost
    assert read_settings(kernel.prog) == {
        "run": 1,
        "max_page_sharing": 256,
        "advisor_mode": 1,
        "merge_across_nodes": 1,
        "use_zero_pages": 0,
        "counters": {"pages_sharing": 77, "ksm_zero_pages": 5, "full_scans": 9},
    }
    kernel.integer("ksm_merge_across_nodes", 0)
    kernel.integer("ksm_zero_pages", 6)  # a plain number before
    settings = read_settings(kernel.prog)
    assert settings["merge_across_nodes"] == 0
    assert settings["counters"]["ksm_zero_pages"] == 6


@pytest.mark.parametrize("structs", [STRUCTS, STRUCTS_6_1], ids=["6.12", "6.1"])
def test_sizes_of_what_ksm_allocates(structs: Mapping[str, str]) -> None:
    kernel = FakeProcesses(structs)
    prefix = "" if structs is STRUCTS_6_1 else "ksm_"
    assert struct_sizes(kernel.prog) == {
        f"ksm_{name}": kernel.sizeof(f"{prefix}{name}")
        for name in ("rmap_item", "stable_node", "mm_slot")
    }


@pytest.mark.parametrize(
    ("release", "functions", "scans", "blocks"),
    [
        (b"6.0.19", (), True, False),
        (b"6.1.50", ("gup_can_follow_protnone",), False, False),
        (b"6.1.161", ("gup_can_follow_protnone", "ksm_next_page_pmd_entry"), True, True),
        (b"6.12.40", ("folio_walk_start",), True, False),
        (b"6.18.0", ("ksm_next_page_pmd_entry", "folio_walk_start"), True, False),
    ],
)
def test_pages_without_access(
    release: bytes, functions: tuple[str, ...], scans: bool, blocks: bool
) -> None:
    kernel = FakeProcesses(functions=functions)
    kernel.text("UTS_RELEASE", release)
    found = features(kernel.prog)["features"]
    assert (found["scans_prot_none"], found["prot_none_blocks_tree"]) == (scans, blocks)


def test_features_by_what_the_kernel_has() -> None:
    kernel = FakeProcesses(
        functions={"ksm_enable_merge_any", "try_to_merge_with_zero_page", "folio_walk_start"}
    )
    kernel.integer("ksm_zero_pages", 0)
    found = features(kernel.prog)["features"]
    assert found["merge_any_prctl"]
    assert found["counts_zero_pages"]
    assert found["checksum_before_stable_tree"]
    assert not found["smart_scan"]
    assert not found["advisor"]
    assert not found["split_maps_zero_page"]
    kernel.integer("ksm_smart_scan", 0)
    kernel.integer("ksm_advisor", 0)
    found = features(kernel.prog)["features"]
    assert found["smart_scan"]
    assert found["advisor"]


def test_orders_of_anonymous_folios() -> None:
    kernel = FakeProcesses()
    assert thp_orders(kernel.prog) is None
    for name, mask in (("always", 1 << 4), ("madvise", 0), ("inherit", 1 << 9)):
        kernel.integer(f"huge_anon_orders_{name}", mask)
    assert thp_orders(kernel.prog) == {"always": 1 << 4, "madvise": 0, "inherit": 1 << 9}


@pytest.mark.parametrize(
    ("flags", "expected"), [(0b01, "always"), (0b11, "always"), (0b10, "madvise"), (0b100, "never")]
)
def test_transparent_huge_pages(flags: int, expected: str) -> None:
    bits = {"TRANSPARENT_HUGEPAGE_FLAG": 0, "TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG": 1}
    kernel = FakeProcesses(constants={**CONSTANTS, **bits})
    assert thp_enabled(kernel.prog) == "never"  # built without
    kernel.integer("transparent_hugepage_flags", flags)
    assert thp_enabled(kernel.prog) == expected

"""struct page and struct folio of a kernel made by hand, and the frames behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from estimator.kernel.page_array import PageArray
from estimator.kernel.page_contents import read_frames
from estimator.snapshot.flags import FrameFlag, FrameKind, Unknown
from tests.fake_kernel import FakeKernel, Fields, FlatMemory, page_at
from tests.fake_structs import CONSTANTS, STRUCTS, STRUCTS_5_10, STRUCTS_6_1

ANON, KSM = 1, 3  # in the low bits of page.mapping
ANON_VMA = 0xFFFF_8880_1234_5600
NEW = {name: bit for name, bit in CONSTANTS.items() if name != "PG_double_map"}


def facts(kernel: FakeKernel, *pfns: int) -> list[dict[str, Any]]:
    """The members of PageInfo of each frame."""
    info = vars(PageArray(kernel.prog, kernel.memory).read(np.array(pfns, np.uint64)))
    return [{name: values[row] for name, values in info.items()} for row in range(len(pfns))]


def test_ksm_pages_are_anonymous() -> None:
    """PageAnon() tests bit 0 alone; PageKsm() both bits."""
    kernel = FakeKernel()
    mappings = {1: ANON_VMA | ANON, 2: ANON_VMA | KSM, 3: ANON_VMA, 4: ANON_VMA | 2, 5: 0}
    for pfn, mapping in mappings.items():
        kernel.page(pfn, (), {"mapping": mapping})
    found = facts(kernel, *mappings)
    assert [f["kind"] for f in found] == [FrameKind.ANONYMOUS, FrameKind.KSM, 0, 0, 0]
    assert [f["mapping"] for f in found] == list(mappings.values())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("lru",), FrameFlag.LRU),
        (("mlocked", "locked"), FrameFlag.MLOCKED | FrameFlag.LOCKED),
        (("writeback",), FrameFlag.WRITEBACK),
        (("hwpoison",), FrameFlag.HWPOISON),
        (("anon_exclusive",), FrameFlag.ANON_EXCLUSIVE),
        # folio_test_swapcache(): PG_swapcache is PG_owner_priv_1, which others use too
        (("swapcache",), 0),
        (("swapcache", "swapbacked"), FrameFlag.SWAPCACHE | FrameFlag.SWAPBACKED),
        (("swapbacked",), FrameFlag.SWAPBACKED),
    ],
)
def test_flags_of_a_small_page(flags: tuple[str, ...], expected: int) -> None:
    kernel = FakeKernel()
    kernel.page(1, flags)
    assert facts(kernel, 1)[0]["flags"] == expected


@pytest.mark.parametrize(("refcount", "pinned"), [(1023, False), (1024, True)])
def test_a_small_page_is_pinned_from_1024_references_on(refcount: int, pinned: bool) -> None:
    kernel = FakeKernel()
    kernel.page(1, (), {"_refcount.counter": refcount})
    found = facts(kernel, 1)[0]
    assert (found["flags"] == FrameFlag.PINNED) == pinned
    assert found["refcount"] == refcount


def test_no_page_flag_of_another_kernel() -> None:
    """Where PG_anon_exclusive or PG_mlocked does not exist, its bit is another flag's."""
    without = {n: b for n, b in CONSTANTS.items() if n not in ("PG_mlocked", "PG_anon_exclusive")}
    kernel = FakeKernel(constants=without)
    kernel.page(1, ("mlocked", "anon_exclusive", "lru"))
    assert facts(kernel, 1)[0]["flags"] == FrameFlag.LRU


@pytest.mark.parametrize(
    ("structs", "constants"), [(STRUCTS, NEW), (STRUCTS_6_1, CONSTANTS)], ids=["6.12", "6.1"]
)
def test_tails_have_their_state_in_the_head(
    structs: Mapping[str, str], constants: Mapping[str, int]
) -> None:
    kernel = FakeKernel(structs, constants=constants)
    fields: Fields = {"mapping": ANON_VMA | ANON, "_refcount.counter": 5}
    kernel.folio(32, 3, ("lru", "swapbacked"), fields)
    kernel.page(40, (), {"mapping": ANON_VMA | KSM})
    kernel.set("page", page_at(35), {"flags": 1 << CONSTANTS["PG_hwpoison"]})
    of_folio = FrameFlag.LRU | FrameFlag.SWAPBACKED | FrameFlag.LARGE
    for found, poison in zip(
        facts(kernel, 32, 35, 39, 40), (0, FrameFlag.HWPOISON, 0), strict=False
    ):
        assert found["head_pfn"] == 32
        assert found["order"] == 3
        assert found["refcount"] == 5
        assert found["kind"] == FrameKind.ANONYMOUS
        assert found["flags"] == of_folio | poison
    small = facts(kernel, 35, 40)[1]
    assert (small["head_pfn"], small["order"], small["kind"]) == (40, 0, FrameKind.KSM)
    kernel.set("folio", page_at(32), {"_pincount.counter": 1})
    assert facts(kernel, 35)[0]["flags"] & FrameFlag.PINNED


def test_references_do_not_pin_a_large_folio() -> None:
    """It has a count of its own: folio_maybe_dma_pinned()."""
    kernel = FakeKernel()
    kernel.folio(32, 2, (), {"_refcount.counter": 4096})
    assert not facts(kernel, 33)[0]["flags"] & FrameFlag.PINNED


def test_mapcounts_with_a_count_of_the_folio() -> None:
    """6.9+: _large_mapcount; a page is mapped as often as itself and the whole folio."""
    kernel = FakeKernel(constants=NEW)
    counts: Fields = {"_entire_mapcount.counter": 1, "_large_mapcount.counter": 6}
    kernel.folio(32, 2, (), counts)
    kernel.set("page", page_at(33), {"_mapcount.counter": 2})
    found = facts(kernel, 32, 33)
    assert [f["mapcount"] for f in found] == [2, 5]
    assert [f["folio_mapcount"] for f in found] == [7, 7]


@pytest.mark.parametrize("double_map", [False, True])
def test_mapcounts_before_the_folio_had_a_count(double_map: bool) -> None:
    """Until 6.8 they are summed; until 6.2 PG_double_map is one too many in each page."""
    kernel = FakeKernel(STRUCTS_6_1)
    flags = 1 << CONSTANTS["PG_double_map"] if double_map else 0
    kernel.folio(32, 2, (), {"_total_mapcount.counter": 1, "_flags_1": flags})
    kernel.page(36, (), {"_mapcount.counter": 0})
    for pfn, count in ((32, 0), (33, 3)):
        kernel.set("page", page_at(pfn), {"_mapcount.counter": count + double_map - 1})
    for pfn in (34, 35):
        kernel.set("page", page_at(pfn), {"_mapcount.counter": double_map - 1})
    found = facts(kernel, 32, 33, 36)
    assert [f["mapcount"] for f in found] == [2, 5, 1]
    assert [f["folio_mapcount"] for f in found] == [2 + 3, 2 + 3, 1]


@pytest.mark.parametrize(
    ("entire", "double_map", "small", "counts", "total"),
    [
        (1, False, (0, 0, 0, 0), [1, 1, 1, 1], 1),  # mapped whole
        (0, False, (1, 0, 2, 0), [1, 0, 2, 0], 3),  # by page table entries alone
        (1, True, (1, 1, 3, 1), [1, 1, 3, 1], 3),  # both: each page counts one too many
    ],
)
@pytest.mark.parametrize("pinned", [False, True])
def test_a_compound_page_before_there_were_folios(
    entire: int,
    double_map: bool,
    small: tuple[int, ...],
    counts: list[int],
    total: int,
    pinned: bool,
) -> None:
    kernel = FakeKernel(STRUCTS_5_10)
    head: Fields = {"mapping": ANON_VMA | ANON, "_refcount.counter": 9}
    kernel.page(32, ("head", "lru", "swapbacked"), head)
    for pfn in range(33, 36):
        kernel.page(pfn, (), {"compound_head": page_at(32) | 1})
    kernel.set("page", page_at(33), {"compound_order": 2, "compound_mapcount.counter": entire - 1})
    if double_map:
        kernel.set("page", page_at(33), {"flags": 1 << CONSTANTS["PG_double_map"]})
    kernel.set("page", page_at(34), {"hpage_pinned_refcount.counter": int(pinned)})
    for pfn, count in enumerate(small, 32):
        kernel.set("page", page_at(pfn), {"_mapcount.counter": count - 1})
    found = facts(kernel, 32, 33, 34, 35)
    assert [f["mapcount"] for f in found] == counts
    assert [f["folio_mapcount"] for f in found] == [total] * 4
    for fact in found:
        assert (fact["head_pfn"], fact["order"], fact["refcount"]) == (32, 2, 9)
        assert fact["kind"] == FrameKind.ANONYMOUS
        assert bool(fact["flags"] & FrameFlag.PINNED) == pinned
        assert fact["flags"] & FrameFlag.LARGE


def test_a_compound_page_of_two_has_no_count_of_pins() -> None:
    """What would be its third struct page is that of another frame."""
    kernel = FakeKernel(STRUCTS_5_10)
    kernel.page(32, ("head",))
    kernel.page(33, (), {"compound_head": page_at(32) | 1})
    kernel.set("page", page_at(33), {"compound_order": 1, "compound_mapcount.counter": -1})
    kernel.page(34, (), {"hpage_pinned_refcount.counter": 1})
    assert not facts(kernel, 32)[0]["flags"] & FrameFlag.PINNED


def test_an_impossible_order_is_damage() -> None:
    kernel = FakeKernel()
    kernel.folio(32, 1)
    kernel.set("folio", page_at(32), {"_flags_1": 19})
    found = facts(kernel, 32)[0]
    assert not found["ok"]
    assert found["order"] == 0


def test_what_has_no_struct_page_is_not_ok() -> None:
    kernel = FakeKernel()
    kernel.page(1, (), {"mapping": ANON_VMA | ANON})
    assert [f["ok"] for f in facts(kernel, 1, 1 << 20, (1 << 52) - 1)] == [True, False, False]


@pytest.mark.parametrize(("nodes", "expected"), [(1, 0), (2, 1), (8, 5)])
def test_the_numa_node_is_in_the_highest_flags(nodes: int, expected: int) -> None:
    kernel = FakeKernel()
    kernel.array("node_data", [0] * nodes)
    kernel.page(1, (), {"flags": expected << 64 - (nodes - 1).bit_length()})
    assert facts(kernel, 1)[0]["node"] == expected


@pytest.mark.parametrize("nodes", [1, 8])
@pytest.mark.parametrize(("zones", "device", "shift"), [(5, 4, 3), (4, 3, 2), (4, None, 2)])
def test_memory_of_a_device_is_not_anonymous(
    nodes: int, zones: int, device: int | None, shift: int
) -> None:
    """Not even as a KSM page, whatever the node of it is."""
    named = {} if device is None else {"ZONE_DEVICE": device}
    kernel = FakeKernel(constants=CONSTANTS | {"__MAX_NR_ZONES": zones} | named)
    kernel.array("node_data", [0] * nodes)
    end = 64 - (nodes - 1).bit_length()
    node = (nodes - 1) << end if nodes > 1 else 0
    for zone in range(zones):
        flags = node | zone << end - shift
        kernel.page(1 + zone, (), {"flags": flags, "mapping": ANON_VMA | ANON})
        kernel.page(11 + zone, (), {"flags": flags, "mapping": ANON_VMA | KSM})
    for first, kind in ((1, FrameKind.ANONYMOUS), (11, FrameKind.KSM)):
        found = facts(kernel, *range(first, first + zones))
        assert [f["kind"] for f in found] == [kind if z != device else 0 for z in range(zones)]
        assert {f["node"] for f in found} == {nodes - 1}


def test_pages_in_any_order() -> None:
    kernel = FakeKernel()
    for pfn in (1, 7):
        kernel.page(pfn, (), {"_refcount.counter": pfn})
    info = PageArray(kernel.prog, kernel.memory).read_any(np.array([7, 1, 7], np.uint64))
    assert info.refcount.tolist() == [7, 1, 7]


# page_contents.py


def frames_of(kernel: FakeKernel, memory: FlatMemory, *pfns: int, moving: bool = False) -> Any:
    pages = PageArray(kernel.prog, kernel.memory)
    return read_frames(pages, memory, np.array(pfns, np.uint64), 7, moving)


def test_only_anonymous_pages_are_hashed() -> None:
    kernel = FakeKernel()
    for pfn, mapping in ((1, ANON_VMA | ANON), (2, ANON_VMA | KSM), (3, ANON_VMA)):
        kernel.page(pfn, (), {"mapping": mapping})
        kernel.frame(pfn, b"%d" % pfn)
    kernel.page(4, (), {"mapping": ANON_VMA | ANON})  # its frame is not there
    found = frames_of(kernel, kernel.memory, 1, 2, 3, 4)
    digest = [xxh3_64_intdigest(text.ljust(4096, b"\0"), 7) for text in (b"1", b"2")]
    assert found["hash"].tolist() == [*digest, 0, 0]
    assert found["unknown"].tolist() == [0, 0, 0, Unknown.UNREADABLE]


class Changing(FlatMemory):
    """Changes a struct page each time that contents are read, ``times`` times."""

    def __init__(self, kernel: FakeKernel, times: int) -> None:
        super().__init__(kernel.prog)
        self._kernel, self._times = kernel, times

    def digests(self, pfns: Any, digest: Any) -> Any:
        found = super().digests(pfns, digest)
        if self._times and 2 in pfns:
            self._times -= 1
            mapping = (ANON_VMA - 256 * (self._times + 1)) | ANON
            self._kernel.set("page", page_at(2), {"mapping": mapping})
            self._kernel.frame(2, b"%d" % self._times)
        return found


@pytest.mark.parametrize(("times", "unknown"), [(1, 0), (3, 0), (9, Unknown.CHANGED)])
def test_a_frame_that_is_used_for_something_else_is_read_again(times: int, unknown: int) -> None:
    kernel = FakeKernel()
    for pfn in (1, 2):
        kernel.page(pfn, (), {"mapping": ANON_VMA | ANON})
        kernel.frame(pfn, b"old")
    found = frames_of(kernel, Changing(kernel, times), 1, 2, moving=True)
    assert found["unknown"].tolist() == [0, unknown]
    last = xxh3_64_intdigest(b"0".ljust(4096, b"\0"), 7)
    assert found["hash"][1] == (0 if unknown else last)
    assert found["hash"][0] == xxh3_64_intdigest(b"old".ljust(4096, b"\0"), 7)


def test_the_zeroes_of_a_poisoned_frame_are_not_hashed() -> None:
    """/proc/kcore and QEMU show zeroes in place of what the hardware lost."""
    kernel = FakeKernel()
    for pfn, flags in ((1, ("hwpoison",)), (2, ())):
        kernel.page(pfn, flags, {"mapping": ANON_VMA | ANON})
        kernel.frame(pfn)
    found = frames_of(kernel, kernel.memory, 1, 2, moving=True)
    assert found["unknown"].tolist() == [Unknown.UNREADABLE, 0]
    assert found["hash"].tolist() == [0, xxh3_64_intdigest(bytes(4096), 7)]

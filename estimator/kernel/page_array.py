"""struct page and struct folio in bulk: is a frame anonymous, KSM's, part of a large folio ...

Sources: include/linux/mm_types.h, page-flags.h, mm.h. A tail page keeps most of its state in the
head page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Architecture, Program

from estimator.arrays import Bytes, Ints, Mask, Words
from estimator.kernel.arch import page_table_format
from estimator.kernel.layout import first_member, has_member, has_type, struct_dtype
from estimator.kernel.memory import Memory
from estimator.kernel.memory.intervals import runs
from estimator.kernel.page_flag_bits import bit_of, zone_device
from estimator.snapshot.flags import FrameFlag, FrameKind

_ANON, _KSM = 1, 3  # bits of page.mapping: PAGE_MAPPING_ANON, PAGE_MAPPING_KSM
_PIN_BIAS = 1024  # GUP_PIN_COUNTING_BIAS
_SMALL = np.iinfo(np.int32).min
_RUN_PAGES = 4096  # struct pages in one read
_GAP_PAGES = 64  # read over gaps up to this long
_EACH = slice(None)

_ALL_FLAGS = ~np.uint32(0)
_PART_BITS = 16  # of a word of flags, looked up at once

_Pages = dict[str, npt.NDArray[Any]]  # members of struct page, one value a frame

# page-flags.h: the policy says whether a flag lives in the page itself or in the head
_FOLIO_FLAGS = (
    (FrameFlag.LRU, "PG_lru"),
    (FrameFlag.MLOCKED, "PG_mlocked"),
    (FrameFlag.LOCKED, "PG_locked"),
    (FrameFlag.WRITEBACK, "PG_writeback"),
    (FrameFlag.SWAPBACKED, "PG_swapbacked"),
    (FrameFlag.SWAPCACHE, "PG_swapcache"),
)
_MTE_FLAG = (FrameFlag.MTE, "PG_arch_2")  # PG_mte_tagged, of arm64; of x86-64 it is another
_PAGE_FLAGS = ((FrameFlag.ANON_EXCLUSIVE, "PG_anon_exclusive"), (FrameFlag.HWPOISON, "PG_hwpoison"))


@dataclass(frozen=True)
class PageInfo:
    """struct page facts of n frames, one row each.

    ``ok``: bool, could be read. ``kind``: u8 ``FrameKind``, 0 for none of them. ``flags``: u32
    ``FrameFlag``. ``order``: u8. ``head_pfn``: u64. ``node``: u16. ``mapcount``, ``refcount``,
    ``folio_mapcount``: i32, see ``frames`` in the snapshot. ``mapping``: u64.
    """

    ok: Mask
    kind: Bytes
    flags: npt.NDArray[np.uint32]
    order: npt.NDArray[np.uint8]
    head_pfn: Words
    node: npt.NDArray[np.uint16]
    mapcount: npt.NDArray[np.int32]
    refcount: npt.NDArray[np.int32]
    folio_mapcount: npt.NDArray[np.int32]
    mapping: Words

    @property
    def anonymous(self) -> Mask:
        """bool: PageAnon(), KSM pages included."""
        return self.kind != 0


@dataclass(frozen=True)
class _Folios:
    """The folios of some frames, one row each, but ``structs``: one per row of ``large``."""

    heads: Words
    ok: Mask
    order: npt.NDArray[np.uint8]
    large: Ints
    structs: npt.NDArray[Any]
    flags: Words
    mapping: Words
    refcount: npt.NDArray[np.int32]


class PageArray:
    """The kernel's array of struct page (vmemmap)."""

    def __init__(self, prog: Program, memory: Memory) -> None:
        self._memory = memory
        self._base = int(prog["vmemmap"].value_())
        self._page = _page_dtype(prog)
        self._huge_order = page_table_format(prog).bits_per_level  # HPAGE_PMD_ORDER
        self._end_pfn = np.uint64(((1 << 64) - self._base) // self._page.itemsize)
        self._tail_word_is_mask = tail_word_is_mask(prog, self._page.itemsize)
        self._folio = _folio_dtype(prog)
        self._counts_mappings = "large_mapcount" in (self._folio.names or ())
        self._double_map = bit_of(prog, "PG_double_map")
        arm64 = prog.platform is not None and prog.platform.arch == Architecture.AARCH64
        # CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP, which arm64 lacks
        self.hugetlb_pages_described_once = np.uint64(1 if arm64 else 1 << self._huge_order)
        of_page = (*_PAGE_FLAGS, _MTE_FLAG) if arm64 else _PAGE_FLAGS
        self._of_folio, self._of_page = _tables(prog, _FOLIO_FLAGS), _tables(prog, of_page)
        self._head_bit = bit_of(prog, "PG_head")
        nodes = len(prog["node_data"]) if "node_data" in prog else 1
        node_bits = (nodes - 1).bit_length()  # NODES_SHIFT; SECTIONS_WIDTH is 0 with a vmemmap
        self._node_shift = np.uint64(64 - node_bits) if node_bits else None
        self._zone_mask, self._zone_device = zone_device(prog, 64 - node_bits)

    def read(self, pfns: Words) -> PageInfo:
        """The facts of the frames ``pfns`` (ascending, distinct); some thousands at a time."""
        pages, ok = self._pages(pfns)
        head_pfn = self._head_pfns(pages, pfns)
        first, folio_of = _first_of_folios(head_pfn, pfns)
        heads = {name: values[first] for name, values in pages.items()}
        folio = self._folios(head_pfn[first], heads, pfns[first])
        own, total = self._mapcounts(pages, folio, folio_of)
        mapping = folio.mapping[folio_of]
        words = np.ascontiguousarray(pages["flags"])
        return PageInfo(
            ok=ok & folio.ok[folio_of],
            kind=self._kind(mapping, words),
            flags=self._folio_flags(folio)[folio_of] | _look_up(self._of_page, words),
            order=folio.order[folio_of],
            head_pfn=head_pfn,
            node=self._nodes(words),
            mapcount=own,
            refcount=folio.refcount[folio_of],
            folio_mapcount=total,
            mapping=mapping,
        )

    def read_any(self, pfns: Words) -> PageInfo:
        """``read`` for PFNs in any order, repeated or out of range."""
        unique, inverse = np.unique(pfns, return_inverse=True)
        info = self.read(unique)
        return PageInfo(**{name: values[inverse] for name, values in vars(info).items()})

    def pfn_of(self, pages: Words) -> Words:
        """PFNs of struct page addresses."""
        found: Words = (pages - np.uint64(self._base)) // np.uint64(self._page.itemsize)
        return found

    def _pages(self, pfns: Words) -> tuple[_Pages, Mask]:
        """struct page of the frames ``pfns``, which ascend, by member; which could be read."""
        size = self._page.itemsize
        possible = int(np.searchsorted(pfns, self._end_pfn))  # a damaged entry may say anything
        names = self._page.names or ()
        pages = {name: np.zeros(len(pfns), self._page[name]) for name in names}
        ok = np.arange(len(pfns)) < possible
        for start, stop in runs(pfns[:possible], _RUN_PAGES, _GAP_PAGES):
            first = int(pfns[start])
            row: Ints | slice = (pfns[start:stop] - np.uint64(first)).view(np.int64)
            data = np.empty((int(pfns[stop - 1]) - first + 1) * size, np.uint8)
            found = data.view(self._page)
            if not self._memory.virtual_run(self._base + first * size, data):
                addresses = np.uint64(self._base) + pfns[start:stop] * np.uint64(size)
                found, ok[start:stop] = self._memory.structs(addresses, self._page)
            if len(found) == stop - start:
                row = _EACH
            for name, values in pages.items():
                values[start:stop] = found[name][row]
        return pages, ok

    def _head_pfns(self, pages: _Pages, pfns: Words) -> Words:
        """compound_head(): bit 0 of a tail's word says that the rest leads to the head.

        ``pfns`` itself if none of them is a tail.
        """
        word = pages["tail_word"]
        tail = (word & np.uint64(1)) != 0
        if not tail.any():
            return pfns
        head = word - np.uint64(1)  # its address
        if self._tail_word_is_mask:
            head &= np.uint64(self._base) + pfns * np.uint64(self._page.itemsize)
        return np.where(tail, self.pfn_of(head), pfns)

    def _folios(self, heads: Words, pages: _Pages, pfns: Words) -> _Folios:
        """The folios with the head frames ``heads``; small ones from the ``pages`` at hand."""
        large = np.flatnonzero(self._is_large(pages["flags"]) | (heads != pfns))
        ok, order = np.ones(len(heads), np.bool_), np.zeros(len(heads), np.uint8)
        columns = {name: pages[name] for name in ("flags", "mapping", "refcount")}
        if not len(large):
            return _Folios(heads, ok, order, large, np.empty(0, self._folio), **columns)
        addresses = np.uint64(self._base) + heads[large] * np.uint64(self._page.itemsize)
        structs, read = self._memory.structs(addresses, self._folio)
        ok[large] = read & (
            structs["order"] & 0xFF <= 2 * self._huge_order
        )  # PUD_ORDER: a larger one is damage
        order[large] = np.where(ok[large], structs["order"] & 0xFF, 0)
        for name, values in columns.items():
            columns[name] = values.copy()
            columns[name][large] = structs[name]
        return _Folios(heads, ok, order, large, structs, **columns)

    def _is_large(self, flags: Words) -> Mask:
        return (flags & np.uint64(self._head_bit)) != 0

    def _folio_flags(self, folio: _Folios) -> npt.NDArray[np.uint32]:
        """``FrameFlag`` of folios."""
        flags = _look_up(self._of_folio, folio.flags)
        backed = (flags & np.uint32(FrameFlag.SWAPBACKED)) != 0  # folio_test_swapcache()
        flags &= np.where(backed, _ALL_FLAGS, ~np.uint32(FrameFlag.SWAPCACHE))
        flags[folio.large] |= np.uint32(FrameFlag.LARGE)
        pinned = folio.refcount >= _PIN_BIAS  # folio_maybe_dma_pinned()
        pinned[folio.large] = (folio.structs["pincount"] > 0) & (folio.order[folio.large] > 1)
        flags[pinned] |= np.uint32(FrameFlag.PINNED)
        return flags

    def _kind(self, mapping: Words, flags: Words) -> Bytes:
        """``FrameKind`` by page.mapping: PageAnon(), PageKsm(); never of memory of a device.

        ksmd passes over folio_is_zone_device(), which is mapped where it is MEMORY_DEVICE_COHERENT.
        """
        anonymous = (mapping & np.uint64(_ANON)) != 0
        if self._zone_mask:
            anonymous &= (flags & self._zone_mask) != self._zone_device
        kind = anonymous.view(np.uint8) * np.uint8(FrameKind.ANONYMOUS)
        kind[anonymous & ((mapping & np.uint64(_KSM)) == _KSM)] = FrameKind.KSM
        return kind

    def _nodes(self, flags: Words) -> npt.NDArray[np.uint16]:
        if self._node_shift is None:
            return np.zeros(len(flags), np.uint16)
        return (flags >> self._node_shift).astype(np.uint16)

    def _mapcounts(
        self, pages: _Pages, folio: _Folios, folio_of: Ints | slice
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Mappings of each page (page_mapcount()) and of its folio (folio_mapcount())."""
        own = pages["mapcount"] + np.int32(1)
        if not len(folio.large):
            return own, own
        entire = folio.structs["entire_mapcount"] + np.int32(1)
        double = np.zeros(len(entire), np.int32)
        if self._double_map:  # until 6.2, 4b51634cd16a: each page counts one too many
            double[(folio.structs["second_flags"] & np.uint64(self._double_map)) != 0] = 1
        if self._counts_mappings:  # 6.9+, 05c5323b2a34
            total = folio.structs["large_mapcount"] + np.int32(1)
        else:
            order = folio.order[folio.large]
            total = entire + self._sum_of_pages(folio.heads[folio.large], order) - (double << order)
        whole = np.zeros(len(folio.heads), np.int32)
        whole[folio.large] = entire - double
        own += whole[folio_of]
        of_folio = np.full(len(folio.heads), _SMALL, np.int32)
        of_folio[folio.large] = total
        of_folio = of_folio[folio_of]
        return own, np.where(of_folio == _SMALL, own, of_folio)

    def _sum_of_pages(self, heads: Words, order: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """The sum of _mapcount + 1 over the pages of each large folio, i32 (n,).

        0 where the order is more than an anonymous folio has.
        """
        count = np.where(order <= self._huge_order, np.int64(1) << order.astype(np.int64), 1)
        start = np.cumsum(count) - count
        piece = np.arange(int(count.sum())) - np.repeat(start, count)
        pfns, row = np.unique(
            np.repeat(heads, count) + piece.astype(np.uint64), return_inverse=True
        )
        pages, _ = self._pages(pfns)
        mappings = (pages["mapcount"] + np.int32(1))[row]
        return np.where(order <= self._huge_order, np.add.reduceat(mappings, start), 0).astype(
            np.int32
        )


def _first_of_folios(head_pfn: Words, pfns: Words) -> tuple[Mask | slice, Ints | slice]:
    """The first frame of each folio, and the folio of each frame, as what indexes an array.

    The frames of a folio are neighbours. Where no page is a tail, each is a folio of its own.
    """
    if head_pfn is pfns:
        return _EACH, _EACH
    first = np.ones(len(pfns), np.bool_)
    first[1:] = head_pfn[1:] != head_pfn[:-1]
    return first, np.cumsum(first) - 1


def _tables(
    prog: Program, flags: tuple[tuple[FrameFlag, str], ...]
) -> dict[int, npt.NDArray[np.uint32]]:
    """By the lowest bit of each part of a word that has any of ``flags``: what its values mean."""
    tables: dict[int, npt.NDArray[np.uint32]] = {}
    values = np.arange(1 << _PART_BITS, dtype=np.uint32)
    for flag, name in flags:
        if bit := bit_of(prog, name):
            part, place = divmod(bit.bit_length() - 1, _PART_BITS)
            table = tables.setdefault(part * _PART_BITS, np.zeros(len(values), np.uint32))
            table |= (values >> np.uint32(place) & np.uint32(1)) * np.uint32(flag)
    return tables


def _look_up(tables: dict[int, npt.NDArray[np.uint32]], words: Words) -> npt.NDArray[np.uint32]:
    """``FrameFlag`` of words of flags, by ``_tables``."""
    found = np.zeros(len(words), np.uint32)
    for lowest_bit, table in tables.items():
        part = words >> np.uint64(lowest_bit) & np.uint64(len(table) - 1)
        found |= table.take(part.view(np.int64))
    return found


def _page_dtype(prog: Program) -> np.dtype[Any]:
    return struct_dtype(
        prog,
        "struct page",
        {
            "flags": first_member(prog, "struct page", "flags.f", "flags"),
            "mapping": "mapping",
            "tail_word": first_member(prog, "struct page", "compound_info", "compound_head"),
            "mapcount": "_mapcount.counter",
            "refcount": "_refcount.counter",
        },
    )


def tail_word_is_mask(prog: Program, page_bytes: int) -> bool:
    """Whether a tail's word is what its address is masked with, not the address of its head.

    So since compound_info (7.1) if CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP, which struct zone shows,
    and struct page is of 2**n bytes: compound_info_has_mask() in include/linux/page-flags.h.
    """
    power_of_2 = page_bytes & (page_bytes - 1) == 0
    return power_of_2 and has_member(prog, "struct zone", "vmemmap_tails")


def _folio_dtype(prog: Program) -> np.dtype[Any]:
    type_ = "struct folio"
    if not has_type(prog, type_):
        return _compound_page_dtype(prog)
    members = {
        "flags": first_member(prog, type_, "flags.f", "flags"),
        "mapping": "mapping",
        "refcount": "_refcount.counter",
        "second_flags": "_flags_1",
        # 6.6+: in the low byte of the second page's flags (ebc1baf5c9b4)
        "order": first_member(prog, type_, "_folio_order", "_flags_1"),
        "entire_mapcount": first_member(
            prog, type_, "_entire_mapcount.counter", "_total_mapcount.counter"
        ),
        "pincount": "_pincount.counter",
    }
    if has_member(prog, type_, "_large_mapcount.counter"):
        members["large_mapcount"] = "_large_mapcount.counter"
    return struct_dtype(prog, type_, members)


def _compound_page_dtype(prog: Program) -> np.dtype[Any]:
    """What a folio is before 5.16: the first three struct pages of a compound page.

    ``pincount`` is in the third, which only an order above 1 has (47e29d32afba, 5.7).
    """
    places = {
        "flags": (0, first_member(prog, "struct page", "flags.f", "flags")),
        "mapping": (0, "mapping"),
        "refcount": (0, "_refcount.counter"),
        "second_flags": (1, "flags"),
        "order": (1, "compound_order"),
        "entire_mapcount": (1, "compound_mapcount.counter"),
        "pincount": (2, "hpage_pinned_refcount.counter"),
    }
    dtypes = {n: struct_dtype(prog, "struct page", {n: path}) for n, (_, path) in places.items()}
    size = dtypes["flags"].itemsize
    found = [dtypes[name].fields[name] for name in places]  # type: ignore[index]
    return np.dtype(
        {
            "names": list(places),
            "formats": [field[0] for field in found],
            "offsets": [
                page * size + field[1]
                for (page, _), field in zip(places.values(), found, strict=True)
            ],
            "itemsize": 3 * size,
        }
    )

"""What merging gives back and what it costs, in frames and bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.arrays import Ints, Mask, pieces
from estimator.ksm.candidates import on_ksmds_list
from estimator.ksm.case import Case
from estimator.ksm.credits import Freed
from estimator.ksm.fate import Fate
from estimator.ksm.frames import live_node_frames
from estimator.ksm.rules import Rules
from estimator.snapshot.flags import FrameFlag
from estimator.snapshot.stored_table import rows_at

OF_ALL_ITEMS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
"""The counters that add up to all rmap_items (pages_volatile_show() in mm/ksm.c: what remains)."""


def general_profit_bytes(rules: Rules, sharing: int, zero_pages: int, rmap_items: int) -> int:
    """general_profit_show() in mm/ksm.c; kernels that don't count zero pages leave them out."""
    zero_pages = zero_pages if rules.counts_zero_pages else 0
    return (sharing + zero_pages) * rules.page_bytes - rmap_items * rules.rmap_item_bytes


def slab_bytes(objects: int, object_bytes: int, page_bytes: int) -> int:
    """Bytes of the slab pages that hold ``objects``, one page per slab."""
    return -(-objects // (page_bytes // object_bytes)) * page_bytes


def stable_nodes(case: Case, fate: Fate) -> tuple[int, int, int]:
    """Stable nodes, chains and dups at rest.

    ksm_stable_node_chains counts contents with more than one node, ksm_stable_node_dups their
    nodes (alloc_stable_node_chain() and stable_node_chain_add_dup() in mm/ksm.c), and chains that
    have come down to one, see ``lone_dups``.
    """
    frames = fate.node.copy()
    frames[live_node_frames(case.snapshot)] = True
    per_content = np.zeros(len(case.contents), np.int32)
    for piece in pieces(len(frames)):
        content = case.contents.of_frame[piece][frames[piece]]
        np.add.at(per_content, content[content >= 0], np.int32(1))
    chained = per_content[per_content > 1]
    alone = len(lone_dups(case, fate))
    return int(np.count_nonzero(frames)), len(chained) + alone, int(chained.sum()) + alone


def lone_dups(case: Case, fate: Fate) -> Ints:
    """i64: the frames of nodes that are the last ones of their chains, at rest too.

    A search that comes by makes such a node one without a chain (stable_node_dup() in mm/ksm.c),
    until 6.11 only if it has room. Whether one comes by depends on the bytes of all pages: it is
    taken to where anything is searched for, see ``perhaps_lone_dups``.
    """
    alone, stays = _last_of_chains(case, fate)
    return alone[stays]


def perhaps_lone_dups(case: Case, fate: Fate) -> int:
    """How many nodes ``lone_dups`` may lack."""
    _, stays = _last_of_chains(case, fate)
    return int(np.count_nonzero(~stays))


def _collapses_full_chains(case: Case) -> bool:
    """Of the series that brought try_to_merge_with_zero_page(), whose order of tests tells it."""
    return case.rules.checksum_before_stable_tree


def _is_searched(case: Case) -> bool:
    facts = case.facts
    return bool(((facts.items > 0) & ~facts.ksm).any()) or bool(len(case.candidates.changing))


def _last_of_chains(case: Case, fate: Fate) -> tuple[Ints, Mask]:
    """Frames of nodes alone in a chain of the snapshot that get no other; bool: it stays one."""
    nodes = case.snapshot.stable_nodes
    chain = nodes["chain_id"].to_numpy()[nodes["live"].to_numpy() & nodes["frame_id"].notna()]
    in_chain = chain >= 0
    alone = np.zeros(len(chain), np.bool_)
    alone[in_chain] = np.bincount(chain[in_chain])[chain[in_chain]] == 1
    frame = np.sort(live_node_frames(case.snapshot)[alone])
    if not len(frame):
        return frame, np.zeros(0, np.bool_)
    content = case.contents.of_frame
    for piece in pieces(len(fate.node)):
        here = np.flatnonzero(fate.node[piece]) + piece.start
        others = np.setdiff1d(here, frame, assume_unique=True)
        frame = frame[(content[frame] < 0) | ~np.isin(content[frame], content[others])]
    if not _is_searched(case):
        return frame, np.ones(len(frame), np.bool_)
    if _collapses_full_chains(case):
        return frame, np.zeros(len(frame), np.bool_)
    items = np.zeros(len(frame), np.int64)
    for piece in pieces(len(fate.stable_frame)):
        node = fate.stable_frame[piece]
        place = np.searchsorted(frame, node[np.isin(node, frame)])
        items += np.bincount(place, minlength=len(frame))
    return frame, items >= case.rules.max_page_sharing


def unmapped_pieces(case: Case) -> Ints:
    """i64 per large folio: pages of it that no process maps; they are no rows of ``frames``.

    0 for a folio with mappings that the snapshot does not account for, or in the swap cache.
    """
    folios = _large_folios(case)
    (mapcount,) = rows_at(case.snapshot.frames, ("folio_mapcount",), folios.first)
    return np.where(folios.mapped == mapcount, _pages_without_row(case, folios), 0)


def unseen_pieces(case: Case) -> Ints:
    """i64 per large folio: pages without a row that may be mapped by others or by nobody.

    Only where the folio's mapcount is not known (--procfs); 0 in the swap cache.
    """
    folios = _large_folios(case)
    (mapcount,) = rows_at(case.snapshot.frames, ("folio_mapcount",), folios.first)
    return np.where(mapcount < 0, _pages_without_row(case, folios), 0)


@dataclass(frozen=True)
class _Folios:
    """Per large folio, i64: the ``first`` of its rows of frames, how many, and their mappings."""

    first: Ints
    rows: Ints
    mapped: Ints


def _large_folios(case: Case) -> _Folios:
    folio, mapcount = case.facts.folio, case.facts.mapcount
    first, rows, mapped = np.zeros((3, int(folio.max(initial=-1)) + 1), np.int64)
    for piece in pieces(len(folio)):
        inside = np.flatnonzero(folio[piece] >= 0)
        number = folio[piece][inside]
        new = np.flatnonzero(rows[number] == 0)[::-1]
        first[number[new]] = inside[new] + piece.start
        np.add.at(rows, number, 1)
        np.add.at(mapped, number, mapcount[piece][inside])
    return _Folios(first, rows, mapped)


def _pages_without_row(case: Case, folios: _Folios) -> Ints:
    """i64 per large folio: pages that are no rows of ``frames``; 0 in the swap cache."""
    order, flags = rows_at(case.snapshot.frames, ("order", "flags"), folios.first)
    pages = np.left_shift(1, order.astype(np.int64)) - folios.rows
    pages[(flags & FrameFlag.SWAPCACHE) != 0] = 0
    return pages


def still_there(case: Case) -> Mask:
    """Which frames are: all but the KSM pages that unmerging has freed (``unmerge.py``)."""
    there: Mask = ~(case.facts.ksm & (case.facts.mapcount <= 0))
    return there


def freed_frames(case: Case, fate: Fate, unmapped: Ints) -> Freed:
    """What becomes free. ``unmapped``: ``unmapped_pieces`` of ``case``.

    A frame is free when every mapping of it, system-wide, went to another page. The pieces of a
    huge page that nobody maps any more are free once it is split. Each copy made by break_cow()
    while others keep the old frame takes one.
    """
    facts = case.facts
    free = (fate.left > 0) & (fate.left >= facts.mapcount) & ~fate.ksm
    return Freed(
        frame_of_row=case.frame_of_row,
        content=case.contents.of_frame,
        mapcount=facts.mapcount,
        gone=free | fate.vanished,
        copied=fate.copied,
        folio=facts.folio,
        unmapped=np.where(fate.split, unmapped, 0),
        split=fate.split,
    )


def physical(
    case: Case, freed: int, unmapped: int, rmap_items: int, stable_nodes: int
) -> dict[str, int]:
    """Frames and bytes that the system gets back.

    ``freed``: frames. ``unmapped``: pieces of huge pages that nobody maps, part of the memory.
    ``rmap_items``, ``stable_nodes``: how many there are at rest, chains among the nodes.

    Overhead is what KSM allocates: one rmap_item per candidate, a stable node per KSM page and per
    chain, an mm slot per process on ksmd's list, in whole slab pages. What KSM had allocated
    already is not counted against it again.
    """
    rules = case.rules
    overhead = _records(rules, rmap_items, stable_nodes, case.candidates.slots)
    overhead_bytes = sum(overhead.values())
    before = int(np.count_nonzero(still_there(case))) + unmapped
    saved = freed * rules.page_bytes
    overhead_now_bytes = _overhead_now_bytes(case)
    return {
        "frames_before": before,
        "frames_after": before - freed,
        "frames_freed": freed,
        "bytes_saved": saved,
        "net_bytes_saved": saved - overhead_bytes + overhead_now_bytes,
        "overhead_bytes": overhead_bytes,
        "overhead_now_bytes": overhead_now_bytes,
        **overhead,
    }


def _overhead_now_bytes(case: Case) -> int:
    """What is there of it already.

    Before 6.1 rmap_items are counted for the whole system alone; then of each mm, where fork copies
    the counter of the parent until "mm/ksm: fix incorrect KSM counter handling in mm_struct during
    fork" (6.18, and stable releases): together no more than there are in the whole system.
    """
    snapshot = case.snapshot
    counters = snapshot.info.get("ksm", {}).get("counters", {})
    of_all = counters.get("ksm_rmap_items", sum(counters.get(name, 0) for name in OF_ALL_ITEMS))
    counted = snapshot.processes["ksm_rmap_items"]
    rmap_items = int(counted.to_numpy(np.int64, na_value=0)[case.candidates.mms].sum())
    if counted.isna().all() and case.candidates.mms.all():
        rmap_items = of_all
    elif of_all > 0:  # in a damaged dump it may be anything
        rmap_items = min(rmap_items, of_all)
    chain_ids = snapshot.stable_nodes["chain_id"].to_numpy()
    nodes = len(chain_ids) + len(np.unique(chain_ids[chain_ids >= 0]))
    slots = on_ksmds_list(snapshot) & case.candidates.mms
    return sum(_records(case.rules, rmap_items, nodes, slots).values())


def seen_before(case: Case) -> bool:
    """Whether there are rmap_items besides those on stable nodes; True too if that is not known."""
    counted = case.snapshot.processes["ksm_rmap_items"][case.candidates.mms]
    if counted.isna().any():
        return bool(case.facts.ksm.any())
    return int(counted.sum()) > int(case.facts.on_node.sum())


def _records(rules: Rules, rmap_items: int, stable_nodes: int, slots: Mask) -> dict[str, int]:
    """Bytes of so many records, chains among the nodes; ``slots``: bool per mm that has one."""
    mm_slots = int(np.count_nonzero(slots))
    return {
        "rmap_items_bytes": slab_bytes(rmap_items, rules.rmap_item_bytes, rules.page_bytes),
        "stable_nodes_bytes": slab_bytes(stable_nodes, rules.stable_node_bytes, rules.page_bytes),
        "mm_slots_bytes": slab_bytes(mm_slots, rules.mm_slot_bytes, rules.page_bytes),
    }

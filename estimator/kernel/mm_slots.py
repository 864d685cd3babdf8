"""ksmd's list: who is scanned, in what order, and how far the current full scan is."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Program

from estimator.kernel.failures import skip_unreadable
from estimator.kernel.layout import first_member, offset
from estimator.kernel.linked import list_nodes


@dataclass(frozen=True)
class MmSlot:
    """A struct ksm_mm_slot, at ``address``: of the mm_struct ``mm``."""

    address: int
    mm: int


def mm_slots(prog: Program) -> list[MmSlot]:
    """Those on the list from ksm_mm_head.next on: the order of a full scan (struct ksm_scan)."""
    slot = prog["ksm_mm_head"].type_  # until 6.0, khugepaged has another struct mm_slot
    link = first_member(prog, slot, "slot.mm_node", "mm_list")
    pointer = first_member(prog, slot, "slot.mm", "mm")
    link_offset, mm_offset = offset(prog, slot, link), offset(prog, slot, pointer)
    head = prog["ksm_mm_head"].address_of_().value_() + link_offset
    slots = []
    for node in list_nodes(prog, head).tolist():
        address = node - link_offset
        with skip_unreadable():
            slots.append(MmSlot(address, prog.read_u64(address + mm_offset)))
    return slots


@dataclass(frozen=True)
class Cursor:
    """How far the current full scan is: pages before ``address`` of the mm of ``slot`` are behind
    it, and so are the mms before that one. ``slot``: an address; ksm_mm_head between two scans.
    """

    slot: int
    address: int


def cursor(prog: Program) -> Cursor:
    """Where ksm_scan in mm/ksm.c stands."""
    scan = prog["ksm_scan"]
    return Cursor(int(scan.mm_slot.value_()), int(scan.address))

"""The VMAs of all mms, read as raw structs: maple trees level by level, or the older list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from estimator.kernel.layout import first_member, has_member, offset, struct_dtype
from estimator.kernel.lists import LoopGuard
from estimator.kernel.memory import Mask, Memory, Words

_NODE_MASK = np.uint64(0xFF)  # MAPLE_NODE_MASK: the low bits of a pointer to a node say its type
_TYPE_SHIFT, _TYPE_MASK = np.uint64(3), np.uint64(0xF)
_NO_LIMIT = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

# include/linux/mm.h; used where the kernel's own table of names lacks one
_VM_FLAGS = {
    "shared": 0x8,
    "mayshare": 0x80,
    "pfnmap": 0x400,
    "locked": 0x2000,
    "io": 0x4000,
    "dontexpand": 0x4_0000,
    "hugetlb": 0x40_0000,
    "mixedmap": 0x1000_0000,
    "mergeable": 0x8000_0000,
}
# vma_ksm_compatible() in mm/ksm.c; before 6.11 there is no VM_DROPPABLE
_INCOMPATIBLE = (
    ("hugetlb", "VM_HUGETLB"),
    ("droppable", "VM_DROPPABLE"),
    ("pfnmap", "VM_PFNMAP"),
    ("io", "VM_IO"),
    ("mixedmap", "VM_MIXEDMAP"),
    ("dontexpand", "VM_DONTEXPAND"),
    ("shared", "VM_SHARED"),
    ("mayshare", "VM_MAYSHARE"),
)
_S_DAX = 1 << 13


@dataclass(frozen=True)
class Vmas:
    """All VMAs, by mm and start; columns as NumPy arrays of one length.

    ``mm``: u32, row of the mm. ``file``, ``anon_vma``, ``anon_name``: u64, addresses in the
    kernel. ``unreadable``: VMAs and tree nodes that could not be read.
    """

    mm: npt.NDArray[np.uint32]
    start: Words
    end: Words
    flags: Words
    anon_vma: Words
    file: Words
    anon_name: Words
    unreadable: int


def read_vmas(prog: Program, memory: Memory, roots: Words) -> Vmas:
    """The VMAs of the mms whose tree roots (or list heads, before 6.1) are ``roots``."""
    dtype = _vma_dtype(prog)
    if has_member(prog, "struct mm_struct", "mm_mt"):
        mm, addresses, lost = _maple(prog, memory, roots)
    else:
        mm, addresses, lost = _linked(memory, roots, dtype)
    structs, ok = memory.structs(addresses, dtype)
    sane = ok & (structs["vm_start"] < structs["vm_end"])
    lost += int((~sane).sum())
    structs, mm = structs[sane], mm[sane]
    rows = np.lexsort((structs["vm_start"], mm))
    structs, mm = structs[rows], mm[rows]
    zeroes = np.zeros(len(structs), np.uint64)
    return Vmas(
        mm=mm.astype(np.uint32),
        start=structs["vm_start"],
        end=structs["vm_end"],
        flags=structs["vm_flags"],
        anon_vma=structs["anon_vma"],
        file=structs["vm_file"],
        anon_name=structs["anon_name"] if "anon_name" in (dtype.names or ()) else zeroes,
        unreadable=lost,
    )


def _vma_dtype(prog: Program) -> np.dtype[Any]:
    type_ = "struct vm_area_struct"
    members = {name: name for name in ("vm_start", "vm_end", "anon_vma", "vm_file")}
    members["vm_flags"] = first_member(prog, type_, "vm_flags", "__vm_flags")
    for field, path in (("anon_name", "anon_name"), ("vm_next", "vm_next")):
        if has_member(prog, type_, path):
            members[field] = path
    return struct_dtype(prog, type_, members)


def _maple(prog: Program, memory: Memory, roots: Words) -> tuple[npt.NDArray[np.int64], Words, int]:
    """Row of the mm and address of every VMA in the maple trees (lib/maple_tree.c)."""
    layouts = _MapleLayouts(prog)
    mm = np.flatnonzero(roots)
    nodes, limit = roots[mm], np.full(len(mm), _NO_LIMIT)
    seen, lost = np.empty(0, np.uint64), 0
    found: list[tuple[npt.NDArray[np.int64], Words]] = []
    while len(nodes):
        below: list[tuple[npt.NDArray[np.int64], Words, Words]] = []
        kind = nodes >> _TYPE_SHIFT & _TYPE_MASK
        for type_ in np.unique(kind).tolist():
            rows = np.flatnonzero(kind == type_)
            if type_ not in layouts.dtypes:
                lost += len(rows)
                continue
            raw, ok = memory.structs(nodes[rows] & ~_NODE_MASK, layouts.dtypes[type_])
            lost += int((~ok).sum())
            used, slot_limit = _used_slots(raw["pivot"], raw["slot"], limit[rows])
            row, column = np.nonzero(used & ok[:, None])
            slots = raw["slot"][row, column]
            if type_ == layouts.leaf:
                found.append((mm[rows][row], slots))
            else:
                below.append((mm[rows][row], slots, slot_limit[row, column]))
        seen = np.union1d(seen, nodes)
        mm, nodes, limit = (
            (np.concatenate(parts) for parts in zip(*below, strict=True))
            if below
            else (mm[:0], nodes[:0], limit[:0])
        )
        new = ~np.isin(nodes, seen)  # a damaged tree may lead back to itself
        lost += int((~new).sum())
        mm, nodes, limit = mm[new], nodes[new], limit[new]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.uint64), lost
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found]), lost


class _MapleLayouts:
    """struct maple_range_64 and maple_arange_64 by enum maple_type."""

    def __init__(self, prog: Program) -> None:
        self.leaf = int(prog.constant("maple_leaf_64").value_())
        size = int(prog.type("struct maple_node").size or 256)
        range64, arange64 = (
            struct_dtype(prog, f"struct maple_{name}_64", {"pivot": "pivot", "slot": "slot"}, size)
            for name in ("range", "arange")
        )
        self.dtypes = {
            self.leaf: range64,
            int(prog.constant("maple_range_64").value_()): range64,
            int(prog.constant("maple_arange_64").value_()): arange64,
        }


def _used_slots(pivot: Words, slot: Words, limit: Words) -> tuple[Mask, Words]:
    """Which slots of each node lead somewhere, and the last address below each of them.

    ``limit``: the last address of each node. As mas_data_end(): a node ends at the first pivot
    that reaches its limit or, behind the first slot, is 0; what follows is stale or metadata.
    """
    last = limit[:, None]
    upto = np.concatenate([pivot, last], axis=1)
    upto[:, 1:] = np.where(upto[:, 1:] == 0, last, upto[:, 1:])
    ends = np.logical_or.accumulate(upto >= last, axis=1)
    used = slot != 0
    used[:, 1:] &= ~ends[:, :-1]
    return used, np.minimum(upto, last)


def _linked(
    memory: Memory, heads: Words, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[np.int64], Words, int]:
    """The list mm->mmap, vm_next (before 6.1), one step of all mms at a time."""
    mm, addresses = np.flatnonzero(heads), heads[heads != 0]
    found_mm, found, lost = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], 0
    guard = LoopGuard(addresses)
    while len(addresses):
        found_mm.append(mm)
        found.append(addresses)
        structs, ok = memory.structs(addresses, dtype)
        lost += int((~ok).sum())
        more = ok & (structs["vm_next"] != 0)
        onward = structs["vm_next"][more]
        fresh = guard.fresh(more, onward)
        mm, addresses = mm[more][fresh], onward[fresh]
    return np.concatenate(found_mm), np.concatenate(found), lost + guard.loops


def vm_flag_values(prog: Program) -> dict[str, int]:
    """VM_* values by lower-case name, from the kernel's own table (vmaflag_names, mm/debug.c)."""
    values = dict(_VM_FLAGS)
    try:
        for entry in prog["vmaflag_names"]:
            if entry.name.value_():
                name = entry.name.string_().decode(errors="replace")
                values[name] = int(entry.mask.value_())
    except (LookupError, FaultError):
        pass
    return values


def excluded_by(prog: Program, vmas: Vmas, values: dict[str, int]) -> npt.NDArray[np.object_]:
    """Per VMA the reason why vma_ksm_compatible() refuses it, None if it doesn't."""
    reason: npt.NDArray[np.object_] = np.full(len(vmas.start), None, object)
    dax = _dax_files(prog, vmas.file)
    if dax:
        reason[np.isin(vmas.file, np.array(sorted(dax), np.uint64))] = "DAX"
    for name, label in reversed(_INCOMPATIBLE):
        if name in values:
            reason[(vmas.flags & np.uint64(values[name])) != 0] = label
    return reason


def _dax_files(prog: Program, files: Words) -> set[int]:
    """The struct files whose inode has S_DAX: vma_is_dax()."""
    inode_offset, flags_offset = (
        offset(prog, "struct file", "f_inode"),
        offset(prog, "struct inode", "i_flags"),
    )
    found = set()
    for file in np.unique(files[files != 0]).tolist():
        try:
            address = prog.read_u64(file + inode_offset)
            if prog.read_u32(address + flags_offset) & _S_DAX:
                found.add(file)
        except FaultError:
            continue
    return found

"""The VMAs of all mms, read as raw structs: maple trees level by level, or the older list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.arrays import Ints, Mask, Words
from estimator.kernel.arch import USER_END
from estimator.kernel.failures import skip_unreadable
from estimator.kernel.layout import first_member, has_member, offset, struct_dtype
from estimator.kernel.memory import Memory
from estimator.kernel.memory.intervals import met_first
from estimator.kernel.processes import Mms, reread_roots
from estimator.ksm import vm_flags

_NODE_MASK = np.uint64(0xFF)  # MAPLE_NODE_MASK: the low bits of a pointer to a node say its type
_TYPE_SHIFT, _TYPE_MASK = np.uint64(3), np.uint64(0xF)
_NO_LIMIT = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ZERO = np.uint64(0)
_LOOKS = 5
S_DAX = 1 << 13
_MOST_NAME_BYTES = 32  # of a flag; damaged ones may end nowhere


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

    def of_mms(self, mms: Mask) -> Vmas:
        """The VMAs of the mms where ``mms`` is true; these are numbered anew."""
        rows, number = mms[self.mm], (np.cumsum(mms) - 1).astype(np.uint32)
        columns = {
            name: values[rows] for name, values in vars(self).items() if name != "unreadable"
        }
        return Vmas(**columns | {"mm": number[columns["mm"]]}, unreadable=self.unreadable)


def read_vmas(prog: Program, memory: Memory, mms: Mms) -> Vmas:
    """The VMAs of ``mms``.

    On a running system the VMAs of an mm are read again, some times at most, until they are as
    many as the mm counts; by how many they differ after that is ``unreadable``. An mm that is gone
    by then lacks nothing.
    """
    dtype = _vma_dtype(prog)
    rows, structs, lost = _of_mms(prog, memory, dtype, mms, mms.structs["vmas"])
    for _ in range(_LOOKS if memory.moving else 0):
        roots, count = reread_roots(prog, memory, mms)
        lost = np.maximum(lost, _miscounted(rows, count))
        if not lost.any():
            break
        again = lost > 0
        more_rows, more, lost = _of_mms(prog, memory, dtype, mms, np.where(again, roots, _ZERO))
        keep = ~again[rows]
        rows, structs = _in_order(
            np.concatenate([rows[keep], more_rows]), np.concatenate([structs[keep], more])
        )
    if memory.moving:
        _, count = reread_roots(prog, memory, mms)
        lost = np.where(count > 0, np.maximum(lost, _miscounted(rows, count)), 0)
    zeroes = np.zeros(len(structs), np.uint64)
    return Vmas(
        mm=rows.astype(np.uint32),
        start=structs["vm_start"],
        end=structs["vm_end"],
        flags=structs["vm_flags"],
        anon_vma=structs["anon_vma"],
        file=structs["vm_file"],
        anon_name=structs["anon_name"] if "anon_name" in (dtype.names or ()) else zeroes,
        unreadable=int(lost.sum()),
    )


def _miscounted(rows: Ints, count: Ints) -> Ints:
    """By how many VMAs each mm has more or fewer ``rows`` than its ``count``, i64."""
    differ: Ints = np.abs(np.bincount(rows, minlength=len(count)) - count)
    return differ


def _of_mms(
    prog: Program, memory: Memory, dtype: np.dtype[Any], mms: Mms, roots: Words
) -> tuple[Ints, npt.NDArray[Any], Ints]:
    """The VMAs below ``roots``, one per mm: row of the mm, struct; and per mm how many are lost.

    By mm and start. Not a VMA, or not of this mm, is what does not point back at the mm, lies
    outside of user space or reaches into the next one: the others overlap nowhere.
    """
    if has_member(prog, "struct mm_struct", "mm_mt"):
        rows, addresses, lost_rows = _maple(prog, memory, roots)
    else:
        rows, addresses, lost_rows = _linked(memory, roots, dtype)
    structs, ok = memory.structs(addresses, dtype)
    ok &= structs["vm_mm"] == mms.addresses[rows]
    ok &= (structs["vm_start"] < structs["vm_end"]) & (structs["vm_end"] <= USER_END)
    ok &= ((structs["vm_start"] | structs["vm_end"]) & np.uint64(memory.page_bytes - 1)) == 0
    lost = np.bincount(np.concatenate([lost_rows, rows[~ok]]), minlength=len(roots))
    rows, structs = _in_order(rows[ok], structs[ok])
    apart = ends_before_next(rows, structs["vm_start"], structs["vm_end"])
    lost += np.bincount(rows[~apart], minlength=len(roots))
    return (rows, structs, lost) if apart.all() else (rows[apart], structs[apart], lost)


def ends_before_next(rows: Ints, start: Words, end: Words) -> Mask:
    """Where a VMA, in order by ``rows`` and ``start``, does not reach into the next of its mm.

    Those where this is so do not overlap.
    """
    apart = np.ones(len(rows), np.bool_)
    apart[:-1] = (rows[1:] != rows[:-1]) | (end[:-1] <= start[1:])
    return apart


def _in_order(rows: Ints, structs: npt.NDArray[Any]) -> tuple[Ints, npt.NDArray[Any]]:
    """By mm and start."""
    order = np.lexsort((structs["vm_start"], rows))
    return rows[order], structs[order]


def _vma_dtype(prog: Program) -> np.dtype[Any]:
    type_ = "struct vm_area_struct"
    names = ("vm_start", "vm_end", "vm_mm", "anon_vma", "vm_file")
    members = {name: name for name in names}
    members["vm_flags"] = first_member(prog, type_, "vm_flags", "__vm_flags")
    for field, path in (("anon_name", "anon_name"), ("vm_next", "vm_next")):
        if has_member(prog, type_, path):
            members[field] = path
    return struct_dtype(prog, type_, members)


def _maple(prog: Program, memory: Memory, roots: Words) -> tuple[Ints, Words, Ints]:
    """Row of the mm and address of every VMA in the maple trees (lib/maple_tree.c).

    And the row of the mm of every node that is lost: unreadable, dead or met before.
    """
    layouts = _MapleLayouts(prog)
    mm = np.flatnonzero(roots)
    nodes, limit = roots[mm], np.full(len(mm), _NO_LIMIT)
    seen: set[int] = set(nodes.tolist())
    lost = [np.empty(0, np.int64)]
    found = [(np.empty(0, np.int64), np.empty(0, np.uint64))]
    while len(nodes):
        below = [(mm[:0], nodes[:0], limit[:0])]
        kind = nodes >> _TYPE_SHIFT & _TYPE_MASK
        for type_ in np.unique(kind).tolist():
            rows = np.flatnonzero(kind == type_)
            if type_ not in layouts.dtypes:
                lost.append(mm[rows])
                continue
            address = nodes[rows] & ~_NODE_MASK
            raw, ok = memory.structs(address, layouts.dtypes[type_])
            ok &= raw["parent"] & ~_NODE_MASK != address  # ma_dead_node()
            lost.append(mm[rows[~ok]])
            used, slot_limit = _used_slots(raw["pivot"], raw["slot"], limit[rows])
            row, column = np.nonzero(used & ok[:, None])
            slots = raw["slot"][row, column]
            if type_ == layouts.leaf:
                found.append((mm[rows][row], slots))
            else:
                below.append((mm[rows][row], slots, slot_limit[row, column]))
        mm, nodes, limit = (np.concatenate(parts) for parts in zip(*below, strict=True))
        new = met_first(seen, nodes)  # a damaged tree may lead back to itself
        lost.append(mm[~new])
        mm, nodes, limit = mm[new], nodes[new], limit[new]
    mm, addresses = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return mm, addresses, np.concatenate(lost)


class _MapleLayouts:
    """struct maple_range_64 and maple_arange_64 by enum maple_type."""

    def __init__(self, prog: Program) -> None:
        self.leaf = int(prog.constant("maple_leaf_64").value_())
        size = int(prog.type("struct maple_node").size or 256)
        members = {name: name for name in ("parent", "pivot", "slot")}
        range64, arange64 = (
            struct_dtype(prog, f"struct maple_{name}_64", members, size)
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


def _linked(memory: Memory, heads: Words, dtype: np.dtype[Any]) -> tuple[Ints, Words, Ints]:
    """The list mm->mmap, vm_next (before 6.1), one step of all mms at a time; see ``_maple``.

    A list that does not ascend is damaged and ends there.
    """
    mm, addresses = np.flatnonzero(heads), heads[heads != 0]
    end = np.zeros(len(mm), np.uint64)
    found = [(mm[:0], addresses[:0])]
    lost = [mm[:0]]
    while len(addresses):
        structs, ok = memory.structs(addresses, dtype)
        ok &= (structs["vm_start"] >= end) & (structs["vm_end"] > structs["vm_start"])
        lost.append(mm[~ok])
        found.append((mm[ok], addresses[ok]))
        more = ok & (structs["vm_next"] != 0)
        mm, addresses, end = mm[more], structs["vm_next"][more], structs["vm_end"][more]
    mm, addresses = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return mm, addresses, np.concatenate(lost)


def vm_flag_values(prog: Program) -> dict[str, int]:
    """VM_* values by lower-case name, from the kernel's own table (vmaflag_names, mm/debug.c)."""
    values = dict(vm_flags.VALUES)
    with skip_unreadable(LookupError):
        for entry in prog["vmaflag_names"]:
            if not entry.name.value_():
                break
            name = prog.read_c_string(entry.name.value_(), max_size=_MOST_NAME_BYTES)
            values[name.decode(errors="replace")] = int(entry.mask.value_())
    return values


def excluded_by(prog: Program, vmas: Vmas, values: dict[str, int]) -> npt.NDArray[np.object_]:
    """Per VMA the reason why vma_ksm_compatible() refuses it, None if it doesn't."""
    dax = np.array(sorted(_dax_files(prog, vmas.file)), np.uint64)
    return vm_flags.excluded_by(vmas.flags, values, np.isin(vmas.file, dax))


def _dax_files(prog: Program, files: Words) -> set[int]:
    """The struct files whose inode has S_DAX: vma_is_dax()."""
    inode_offset, flags_offset = (
        offset(prog, "struct file", "f_inode"),
        offset(prog, "struct inode", "i_flags"),
    )
    found = set()
    for file in np.unique(files[files != 0]).tolist():
        with skip_unreadable():
            address = prog.read_u64(file + inode_offset)
            if prog.read_u32(address + flags_offset) & S_DAX:
                found.add(file)
    return found

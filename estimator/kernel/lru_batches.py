"""References that CPUs hold for a moment, to work on many pages at once: they are no pins.

ksmd drains these batches at the start of every full scan: lru_add_drain_all() in
scan_get_next_rmap_item() (mm/ksm.c). Sources: mm/swap.c (mm/folio.c since 7.3), mm/mlock.c,
include/linux/pagevec.h.
"""

from __future__ import annotations

from dataclasses import dataclass

import drgn
import numpy as np
import numpy.typing as npt
from drgn import Program
from drgn.helpers.linux.cpumask import for_each_online_cpu

from estimator.arrays import Words, find
from estimator.kernel.layout import first_member, has_variable, struct_dtype
from estimator.kernel.memory import Memory
from estimator.kernel.page_array import PageArray

_PER_CPU = (
    "cpu_fbatches",  # 5.20+, 82ac64d8fbad: lru_add, lru_deactivate, lru_lazyfree, lru_activate ...
    "lru_pvecs",  # before
    "lru_rotate",  # until 6.12, where it became a member of cpu_fbatches (lru_move_tail)
    "mlock_fbatch",  # 6.3+, 90d07210ab55
    "mlock_pvec",  # 5.18+, 2fbb0c10d1e8
)
_BATCHES = ("struct folio_batch", "struct pagevec")
_MLOCK_FLAGS = np.uint64(3)  # LRU_FOLIO, NEW_FOLIO: in the low bits of a pointer


@dataclass(frozen=True)
class Batches:
    """``pfns``: u64, ascending. ``references``: u8, how many batches hold each of these frames.

    ``unreadable``: batches that could not be read: what they hold looks pinned.
    """

    pfns: Words
    references: npt.NDArray[np.uint8]
    unreadable: int

    def of(self, pfns: Words) -> npt.NDArray[np.uint8]:
        """u8: how many references the batches hold of each of the frames ``pfns``."""
        references = np.zeros(len(pfns), np.uint8)
        row, found = find(self.pfns, pfns)
        references[found] = self.references[row]
        return references


def read_batches(prog: Program, memory: Memory, pages: PageArray) -> Batches:
    """The frames that are in a batch of any CPU. Raises LookupError on a kernel without symbols."""
    cpus = list(for_each_online_cpu(prog))
    offsets = np.array([prog["__per_cpu_offset"][cpu].value_() for cpu in cpus], np.uint64)
    pointers, unreadable = [np.empty(0, np.uint64)], 0
    for name in _PER_CPU:
        if not has_variable(prog, name):
            continue
        variable = prog[name]
        base = np.uint64(variable.address_of_().value_())
        for member in _members(variable.type_):
            batch = _batch_dtype(prog, variable.type_, member)
            structs, ok = memory.structs(base + offsets, batch)
            count, held = structs["nr"].astype(np.int64), structs["pages"]
            ok &= count <= held.shape[1]
            unreadable += int((~ok).sum())
            used = np.arange(held.shape[1]) < np.where(ok, count, 0)[:, None]
            pointers.append(held[used] & ~_MLOCK_FLAGS)
    pfns, references = np.unique(pages.pfn_of(np.concatenate(pointers)), return_counts=True)
    return Batches(pfns, np.minimum(references, 255).astype(np.uint8), unreadable)


def _members(type_: drgn.Type) -> list[str]:
    """The members of a per-CPU struct that are batches: new ones are found by their type."""
    return [
        member.name
        for member in type_.unaliased().members or ()
        if member.name and member.type.type_name() in _BATCHES
    ]


def _batch_dtype(prog: Program, type_: drgn.Type, member: str) -> np.dtype[np.void]:
    batch = next(m.type for m in type_.unaliased().members or () if m.name == member)
    pages = first_member(prog, batch, "folios", "pages")
    return struct_dtype(
        prog, type_.type_name(), {"nr": f"{member}.nr", "pages": f"{member}.{pages}"}
    )

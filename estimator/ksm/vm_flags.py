"""vm_flags of a VMA: values, names, and which of them keep ksmd away.

Sources: include/linux/mm.h (values), vmaflag_names in mm/debug.c (names), show_smap_vma_flags() in
fs/proc/task_mmu.c (the two letters of smaps), vma_ksm_compatible() in mm/ksm.c.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from estimator.arrays import Mask, Words

# name, letters, value on x86-64
_TABLE = (
    ("read", "rd", 0x1),
    ("write", "wr", 0x2),
    ("exec", "ex", 0x4),
    ("shared", "sh", 0x8),
    ("mayread", "mr", 0x10),
    ("maywrite", "mw", 0x20),
    ("mayexec", "me", 0x40),
    ("mayshare", "ms", 0x80),
    ("growsdown", "gd", 0x100),
    ("pfnmap", "pf", 0x400),
    ("locked", "lo", 0x2000),
    ("io", "io", 0x4000),
    ("seqread", "sr", 0x8000),
    ("randread", "rr", 0x1_0000),
    ("dontcopy", "dc", 0x2_0000),
    ("dontexpand", "de", 0x4_0000),
    ("account", "ac", 0x10_0000),
    ("noreserve", "nr", 0x20_0000),
    ("hugetlb", "ht", 0x40_0000),
    ("sync", "sf", 0x80_0000),
    ("wipeonfork", "wf", 0x200_0000),
    ("dontdump", "dd", 0x400_0000),
    ("softdirty", "sd", 0x800_0000),
    ("mixedmap", "mm", 0x1000_0000),
    ("hugepage", "hg", 0x2000_0000),
    ("nohugepage", "nh", 0x4000_0000),
    ("mergeable", "mg", 0x8000_0000),
    ("droppable", "dp", 1 << 40),  # 6.11+; never set before
)
VALUES = {name: value for name, _, value in _TABLE}
LETTERS = {letters: value for _, letters, value in _TABLE}

# vma_ksm_compatible() refuses these; of several the first is named
EXCLUDING = (
    "hugetlb",
    "droppable",
    "pfnmap",
    "io",
    "mixedmap",
    "dontexpand",
    "shared",
    "mayshare",
)


def excluded_by(
    vm_flags: Words, values: Mapping[str, int] = VALUES, dax: Mask | None = None
) -> npt.NDArray[np.object_]:
    """Per VMA what keeps ksmd away: the name of a flag (VM_*), else "DAX", else None.

    ``values``: of the flags in this kernel. ``dax``: where the file has S_DAX, if that is known.
    """
    reason: npt.NDArray[np.object_] = np.full(len(vm_flags), None, object)
    if dax is not None:
        reason[dax] = "DAX"
    for name in reversed(EXCLUDING):
        reason[(vm_flags & np.uint64(values[name])) != 0] = f"VM_{name.upper()}"
    return reason

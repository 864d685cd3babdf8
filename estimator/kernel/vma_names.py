"""What a VMA is called in /proc/PID/maps: its file, [heap], [stack], [anon:...]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from drgn import Program

from estimator.kernel.failures import skip_unreadable
from estimator.kernel.layout import has_type, offset
from estimator.kernel.paths import Paths
from estimator.kernel.vmas import Vmas

_MOST_NAME_BYTES = 80  # ANON_VMA_NAME_MAX_LEN of kernel/sys.c


def vma_names(prog: Program, vmas: Vmas, mms: Any) -> npt.NDArray[np.object_]:
    """Names as show_map_vma() (fs/proc/task_mmu.c) gives them; "" for a plain anonymous VMA.

    ``mms``: structs with ``start_brk``, ``brk`` and ``start_stack``, one per row of mm.
    """
    names: npt.NDArray[np.object_] = np.full(len(vmas.start), "", object)
    anonymous = vmas.file == 0
    start_brk, brk, stack_top = (mms[n][vmas.mm] for n in ("start_brk", "brk", "start_stack"))
    heap = anonymous & (vmas.start < brk) & (vmas.end > start_brk)
    stack = anonymous & (vmas.start <= stack_top) & (vmas.end >= stack_top)
    names[stack] = "[stack]"
    names[heap] = "[heap]"
    path = _paths(prog)
    for rows, pointers, name in (
        (np.flatnonzero(~anonymous), vmas.file, path),
        (np.flatnonzero(anonymous & (vmas.anon_name != 0)), vmas.anon_name, _anon_names(prog)),
    ):
        unique, inverse = np.unique(pointers[rows], return_inverse=True)
        found = np.array([name(pointer) for pointer in unique.tolist()], object)
        if len(rows):
            names[rows] = found[inverse]
    return names


def _paths(prog: Program) -> Any:
    """struct file * -> path; many files share one dentry, so its path is made once."""
    dentry_offset = offset(prog, "struct file", "f_path.dentry")
    seen: dict[int, str] = {}
    paths = Paths(prog)

    def of_file(file: int) -> str:
        with skip_unreadable(LookupError, ValueError):
            dentry = prog.read_u64(file + dentry_offset)
            if dentry not in seen:
                seen[dentry] = paths.of_file(file)
            return seen[dentry]
        return "[unreadable]"

    return of_file


def _anon_names(prog: Program) -> Any:
    """struct anon_vma_name * -> [anon:NAME] (prctl PR_SET_VMA_ANON_NAME)."""
    if not has_type(prog, "struct anon_vma_name"):  # 5.17+, 9a10064f5625
        return lambda pointer: "[anon]"
    name_offset = offset(prog, "struct anon_vma_name", "name")

    def of_pointer(pointer: int) -> str:
        with skip_unreadable():
            name = prog.read_c_string(pointer + name_offset, max_size=_MOST_NAME_BYTES)
            return f"[anon:{name.decode(errors='replace')}]"
        return "[anon]"

    return of_pointer

"""The VMAs of a process, from /proc/PID/smaps: its flags say what ksmd may merge."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from estimator.collect.mappings import Words
from estimator.procfs.processes import PROC, Process

_VALUES = ("Anonymous", "AnonHugePages", "Swap", "KSM")
_LINE = re.compile(
    r"\n(?:([0-9a-f]+)-([0-9a-f]+) \S{4} \S+ \S+ \d+ *(.*)"  # start, end, name
    rf"|({'|'.join(_VALUES)}): +(\d+) kB|VmFlags: (.*))"
)
_HUGETLB = "ht"

# show_smap_vma_flags() in fs/proc/task_mmu.c: two letters for each bit of include/linux/mm.h
VM_FLAGS = {
    "rd": 0x1, "wr": 0x2, "ex": 0x4, "sh": 0x8, "mr": 0x10, "mw": 0x20, "me": 0x40, "ms": 0x80,
    "gd": 0x100, "pf": 0x400, "lo": 0x2000, "io": 0x4000, "sr": 0x8000, "rr": 0x1_0000,
    "dc": 0x2_0000, "de": 0x4_0000, "ac": 0x10_0000, "nr": 0x20_0000, "ht": 0x40_0000,
    "sf": 0x80_0000, "wf": 0x200_0000, "dd": 0x400_0000, "sd": 0x800_0000, "mm": 0x1000_0000,
    "hg": 0x2000_0000, "nh": 0x4000_0000, "mg": 0x8000_0000,
}  # fmt: skip

# vma_ksm_compatible() in mm/ksm.c
_INCOMPATIBLE = {
    "ms": "VM_MAYSHARE", "sh": "VM_SHARED", "de": "VM_DONTEXPAND", "mm": "VM_MIXEDMAP",
    "io": "VM_IO", "pf": "VM_PFNMAP", "dp": "VM_DROPPABLE", "ht": "VM_HUGETLB",
}  # fmt: skip


def read_vmas(processes: Sequence[Process]) -> tuple[pd.DataFrame, dict[str, Words]]:
    """Rows of ``vmas.parquet`` without counts, and numbers of smaps by name, in pages (u64).

    Whether a VMA has an anon_vma stands in no file: it must if it has anonymous pages or swap, and
    without any it makes no difference.
    """
    rows: list[dict[str, Any]] = []
    for mm_id, process in enumerate(processes):
        rows += [{"mm_id": mm_id} | row for row in _of_process(process.pid)]
    columns = ["mm_id", "start", "end", "vm_flags", "name", *_VALUES, *_STATES]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "vma_id", np.arange(len(table)))
    smaps = {name: table.pop(name).to_numpy(np.uint64) for name in _VALUES}
    types = {"vma_id": "u4", "mm_id": "u4", "start": "u8", "end": "u8", "vm_flags": "u8"}
    return table.astype(types), smaps


_STATES = ("mergeable", "compatible", "excluded_by", "has_anon_vma", "locked")


def _of_process(pid: int) -> list[dict[str, Any]]:
    try:
        text = (PROC / str(pid) / "smaps").read_bytes().decode(errors="replace")
    except OSError:
        return []  # has exited
    rows: list[dict[str, Any]] = []
    row: dict[str, Any] = {}
    for start, end, name, value, kib, flags in _LINE.findall(f"\n{text}"):
        if start:
            row = {"start": int(start, 16), "end": int(end, 16), "name": name}
            row |= dict.fromkeys(_VALUES, 0)
        elif value:
            row[value] = int(kib) >> 2
        elif row["name"] != "[vsyscall]":
            anonymous = row["Anonymous"] + row["Swap"] > 0
            row |= _about(flags)
            row["has_anon_vma"] = anonymous and row["vm_flags"] & VM_FLAGS[_HUGETLB] == 0
            rows.append(row)
    return rows


@functools.cache
def _about(flags: str) -> dict[str, Any]:
    """What the flags of a VMA say of it."""
    names = flags.split()
    excluded = next((reason for flag, reason in _INCOMPATIBLE.items() if flag in names), None)
    return {
        "vm_flags": sum(VM_FLAGS.get(flag, 0) for flag in names),
        "mergeable": "mg" in names,
        "compatible": excluded is None,
        "excluded_by": excluded,
        "locked": "lo" in names,
    }

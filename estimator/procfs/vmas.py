"""The VMAs of a process, from /proc/PID/smaps: its flags say what ksmd may merge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from estimator.mapped import Words
from estimator.procfs.processes import PROC, Process

_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")
_VALUES = ("Anonymous", "AnonHugePages", "Swap", "KSM")
_PRIVATE_HUGETLB = "ht"

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
        lines = (PROC / str(pid) / "smaps").read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return []  # has exited
    rows: list[dict[str, Any]] = []
    header: re.Match[str] | None = None
    values: dict[str, int] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name in _VALUES:
            values[name] = int(value.split()[0]) >> 2
        elif name == "VmFlags" and header is not None:
            rows.append(_row(header, values, value.split()))
        elif found := _HEADER.fullmatch(line):
            header, values = found, {}
    return [row for row in rows if row["name"] != "[vsyscall]"]


def _row(header: re.Match[str], values: dict[str, int], flags: list[str]) -> dict[str, Any]:
    excluded = next((reason for flag, reason in _INCOMPATIBLE.items() if flag in flags), None)
    anonymous = values.get("Anonymous", 0) + values.get("Swap", 0) > 0
    return {
        "start": int(header[1], 16),
        "end": int(header[2], 16),
        "vm_flags": sum(VM_FLAGS.get(flag, 0) for flag in flags),
        "name": header[4],
        **{value: values.get(value, 0) for value in _VALUES},
        "mergeable": "mg" in flags,
        "compatible": excluded is None,
        "excluded_by": excluded,
        "has_anon_vma": anonymous and _PRIVATE_HUGETLB not in flags,
        "locked": "lo" in flags,
    }

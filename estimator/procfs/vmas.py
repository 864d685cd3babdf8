"""The VMAs of a process, from /proc/PID/smaps: its flags say what ksmd may merge."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.arrays import Mask, Words
from estimator.collect.limits import is_own_limit
from estimator.ksm.vm_flags import LETTERS, VALUES, excluded_by
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.processes import PROC, Process

_VALUES = ("Anonymous", "AnonHugePages", "Swap", "KSM")
_LINE = re.compile(
    r"\n(?:([0-9a-f]+)-([0-9a-f]+) \S{4} \S+ \S+ \d+ *(.*)"  # start, end, name
    rf"|({'|'.join(_VALUES)}): +(\d+) kB|VmFlags: (.*))"
)


def read_vmas(processes: Sequence[Process]) -> tuple[pd.DataFrame, dict[str, Words], Mask]:
    """Ints of ``vmas.parquet`` without counts, and numbers of smaps by name, in pages (u64).

    And of which processes they could be read, bool (n,).
    Whether a VMA has an anon_vma stands in no file: it must if it has anonymous pages or swap, and
    without any it makes no difference.
    """
    rows: list[dict[str, Any]] = []
    known = np.ones(len(processes), np.bool_)
    for mm_id, process in enumerate(processes):
        found = _of_process(process.pid)
        known[mm_id] = found is not None
        rows += [{"mm_id": mm_id} | row for row in found or ()]
    columns = ["mm_id", "start", "end", "vm_flags", "name", *_VALUES, *_STATES]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "vma_id", np.arange(len(table)))
    smaps = {name: table.pop(name).to_numpy(np.uint64) for name in _VALUES}
    types = {"vma_id": "u4", "mm_id": "u4", "start": "u8", "end": "u8", "vm_flags": "u8"}
    return table.astype(types), smaps, known


def listed_first(
    listed: npt.NDArray[np.bool_], vmas: pd.DataFrame, smaps: dict[str, Words]
) -> tuple[npt.NDArray[np.int64], pd.DataFrame, dict[str, Words]]:
    """The mms in the order of a snapshot: those on ksmd's list first; and what ``read_vmas`` read.

    The new order as old numbers of mms, each half in the order it had; VMAs with the new numbers.
    """
    order = np.argsort(~listed, kind="stable")
    number = np.empty(len(order), np.uint32)
    number[order] = np.arange(len(order), dtype=np.uint32)
    mm_id = number[vmas["mm_id"].to_numpy()]
    rows = np.argsort(mm_id, kind="stable")
    vmas = vmas.iloc[rows].reset_index(drop=True)
    vmas["mm_id"] = mm_id[rows]
    vmas["vma_id"] = np.arange(len(vmas), dtype=np.uint32)
    return order, vmas, {name: pages[rows] for name, pages in smaps.items()}


_STATES = ("mergeable", "compatible", "excluded_by", "has_anon_vma", "locked")


def _of_process(pid: int) -> list[dict[str, Any]] | None:
    """Rows of the VMAs of a process; None if they can't be read."""
    try:
        text = (PROC / str(pid) / "smaps").read_bytes().decode(errors="replace")
    except OSError as error:
        if is_own_limit(error):
            raise
        return None
    rows: list[dict[str, Any]] = []
    row: dict[str, Any] = {}
    for start, end, name, value, kib, flags in _LINE.findall(f"\n{text}"):
        if start:
            row = {"start": int(start, 16), "end": int(end, 16), "name": name}
            row |= dict.fromkeys(_VALUES, 0)
        elif value:
            row[value] = (int(kib) << 10) // PAGE_BYTES
        elif row["name"] != "[vsyscall]":
            anonymous = row["Anonymous"] + row["Swap"] > 0
            row |= _about(flags)
            row["has_anon_vma"] = anonymous and row["vm_flags"] & VALUES["hugetlb"] == 0
            rows.append(row)
    return rows


@functools.cache
def _about(flags: str) -> dict[str, Any]:
    """What the flags of a VMA say of it."""
    vm_flags = sum(LETTERS.get(letters, 0) for letters in flags.split())
    excluded = excluded_by(np.array([vm_flags], np.uint64))[0]
    return {
        "vm_flags": vm_flags,
        "mergeable": vm_flags & VALUES["mergeable"] != 0,
        "compatible": excluded is None,
        "excluded_by": excluded,
        "locked": vm_flags & VALUES["locked"] != 0,
    }

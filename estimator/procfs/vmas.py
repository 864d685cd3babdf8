"""The VMAs of a process, from /proc/PID/smaps: its flags say what ksmd may merge."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.arrays import Columns, Mask, Words, in_turn, of_rows
from estimator.collect.limits import is_own_limit
from estimator.ksm.vm_flags import EXCLUDING, LETTERS, VALUES, excluded_by
from estimator.procfs.page_size import PAGE_BYTES
from estimator.procfs.processes import PROC, Process
from estimator.snapshot.format import CONTENTS

_HUGETLB = ("Shared_Hugetlb", "Private_Hugetlb")
_VALUES = ("Rss", "Anonymous", "AnonHugePages", *_HUGETLB, "Swap", "KSM")
_LIFTED = sum(VALUES[name] for name in ("hugetlb", "dontexpand", "shared", "mayshare"))
_LINE = re.compile(
    r"\n(?:([0-9a-f]+)-([0-9a-f]+) \S{4} \S+ \S+ \d+ *(.*)"  # start, end, name
    rf"|({'|'.join(_VALUES)}): +(\d+) kB|VmFlags: (.*))"
)


def read_vmas(processes: Sequence[Process], threads: int) -> tuple[Columns, dict[str, Words], Mask]:
    """Columns of ``vmas.parquet`` without counts, and numbers of smaps by name, in pages (u64).

    And of which processes they could be read, bool (n,).
    Whether a VMA has an anon_vma stands in no file: it must if it has anonymous pages or swap, and
    without any it makes no difference.
    """
    rows: list[dict[str, Any]] = []
    known = np.ones(len(processes), np.bool_)
    for mm_id, found in enumerate(in_turn(_of_process, processes, threads)):
        known[mm_id] = found is not None
        rows += [{"mm_id": mm_id} | row for row in found or ()]
    vmas: Columns = {"vma_id": np.arange(len(rows), dtype=np.uint32)}
    for name, dtype in _COLUMNS.items():
        vmas[name] = np.fromiter((row[name] for row in rows), dtype, len(rows))
    return vmas, {name: vmas.pop(name) for name in _VALUES}, known


def with_others(vmas: Columns, smaps: dict[str, Words], contents: str) -> tuple[Mask, int]:
    """Which VMAs map pages that are not anonymous and could be, bool; how many pages at most.

    None if ``contents`` (one of ``CONTENTS``) asks for none of them; else also such as have pages
    of files alone: no file here says whether one is of tmpfs, /proc/kpageflags says it of a frame.
    """
    if contents == CONTENTS[0]:
        return np.zeros(len(vmas["start"]), np.bool_), 0
    flags = vmas["vm_flags"]
    hugetlb = (flags & np.uint64(VALUES["hugetlb"])) != 0
    shut = sum(VALUES[name] for name in EXCLUDING) & ~_LIFTED
    refused = (flags & np.uint64(shut)) != 0
    refused |= ~hugetlb & ((flags & np.uint64(VALUES["dontexpand"])) != 0)
    pages = smaps["Rss"] - np.minimum(smaps["Anonymous"], smaps["Rss"])
    pages += sum(smaps[name] for name in _HUGETLB)
    found = ~refused & (pages > 0)
    return found, int(pages[found].sum())


def listed_first(
    listed: npt.NDArray[np.bool_], vmas: Columns, smaps: dict[str, Words]
) -> tuple[npt.NDArray[np.int64], Columns, dict[str, Words]]:
    """The mms in the order of a snapshot: those on ksmd's list first; and what ``read_vmas`` read.

    The new order as old numbers of mms, each half in the order it had; VMAs with the new numbers.
    """
    order = np.argsort(~listed, kind="stable")
    number = np.empty(len(order), np.uint32)
    number[order] = np.arange(len(order), dtype=np.uint32)
    mm_id = number[vmas["mm_id"]]
    rows = np.argsort(mm_id, kind="stable")
    vmas = of_rows(vmas | {"mm_id": mm_id}, rows) | {"vma_id": vmas["vma_id"]}
    return order, vmas, {name: pages[rows] for name, pages in smaps.items()}


_COLUMNS: dict[str, Any] = {
    "mm_id": np.uint32,
    **dict.fromkeys(("start", "end", "vm_flags"), np.uint64),
    "name": np.object_,
    **dict.fromkeys(_VALUES, np.uint64),
    **dict.fromkeys(("mergeable", "compatible"), np.bool_),
    "excluded_by": np.object_,
    **dict.fromkeys(("has_anon_vma", "locked"), np.bool_),
}


def _of_process(process: Process) -> list[dict[str, Any]] | None:
    """Rows of the VMAs of a process; None if they can't be read."""
    try:
        text = (PROC / str(process.pid) / "smaps").read_bytes().decode(errors="replace")
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

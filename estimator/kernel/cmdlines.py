"""What processes were started with, read from their own memory: those of all at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from drgn import Program

from estimator.arrays import KEY_PAGE_BITS, page_keys
from estimator.kernel.arch import USER_END
from estimator.kernel.memory import Memory
from estimator.kernel.pagetable import PageTables, Ranges
from estimator.snapshot.flags import Unknown

_MOST_BYTES = np.uint64(4 << 10)
_PAGE_OF_KEY = (np.uint64(1) << KEY_PAGE_BITS) - np.uint64(1)


def read_cmdlines(prog: Program, memory: Memory, mms: Any) -> list[str | None]:
    """The text of /proc/PID/cmdline with spaces between the arguments, 4 KiB of it at most.

    ``mms``: structs with ``pgd``, ``arg_start`` and ``arg_end``. None: there is none, or it can't
    be read, as where it was swapped out.
    """
    rows = np.flatnonzero((mms["arg_start"] < mms["arg_end"]) & (mms["arg_end"] <= USER_END))
    start = mms["arg_start"][rows]
    end = np.minimum(mms["arg_end"][rows], start + _MOST_BYTES)
    shift = np.uint64(memory.page_shift)
    prefix = np.arange(len(rows), dtype=np.uint64)
    last = page_keys(prefix, (end - np.uint64(1)) >> shift)
    ranges = Ranges(page_keys(prefix, start >> shift), last + np.uint64(1))
    tables = PageTables(prog, memory, ranges)
    pgd = memory.physical(mms["pgd"][rows])
    starts, ends, texts = start.tolist(), end.tolist(), [b""] * len(rows)
    for entries in tables.entries(tables.leaves(prefix, pgd)):
        present = entries.present
        data, unknown = memory.frames(entries.pfn[present])
        page_start = (entries.key[present] & _PAGE_OF_KEY) << shift
        which = entries.range_index[present]
        for row in np.flatnonzero(unknown == Unknown.HASHED).tolist():
            n, page = int(which[row]), int(page_start[row])
            part = slice(max(starts[n] - page, 0), min(ends[n] - page, memory.page_bytes))
            texts[n] += data[row, part].tobytes()
    found: list[str | None] = [None] * len(mms)
    for row, begin, stop, text in zip(rows.tolist(), starts, ends, texts, strict=True):
        if len(text) == stop - begin:  # all of its pages were there
            found[row] = text.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return found

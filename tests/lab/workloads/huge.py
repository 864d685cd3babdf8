"""Transparent huge pages: which are split, and what becomes of their pages full of zeroes."""

from __future__ import annotations

from tests.lab.kernels import RECENT
from tests.lab.workload import THP, Workload

PARTIAL_MUNMAP = """
    map data 2H
    advise data hugepage
    fill data list 1
    fill data[1H+188:] own 2
    advise data mergeable
    unmap data[100:200]  # the frames stay, as long as the folio is whole
"""


def huge(zeroes: int | str = 0, *, then: str = "", forks: int = 0) -> str:
    """A process with a huge page: pages full of zeroes, the others unlike any other page."""
    return f"""
        map data 1H
        advise data hugepage
        fill data own 1
        {f"fill data[:{zeroes}] zero" if zeroes else ""}
        {then}
        advise data mergeable
        fork {forks}
        end
    """


def small_zeroes(pages: int, *, forks: int = 0) -> str:
    """A process with small pages full of zeroes."""
    return f"""
        map data {pages}
        fill data zero
        advise data mergeable
        fork {forks}
        end
    """


DUPLICATES = """
    map data 2H
    advise data hugepage
    fill data list 1
    advise data mergeable
"""

TAIL = """
    map data 1H+188             # the second huge page would not fit
    advise data hugepage
    fill data list 1
    advise data mergeable
"""

MEDIUM = """
    map data 48
    advise data hugepage
    fill data own 1
    fill data[:2] zero
    fill data[16:18] zero
    fill data[32:34] zero
    advise data mergeable
"""

MEDIUM_DUPLICATES = """
    map data 48
    advise data hugepage
    fill data own 1
    fill data[20:24] list 2
    advise data mergeable
"""

COPY = """
    map data 1
    fill data same 7
    advise data mergeable
"""

MEDIUM_SIZE = {f"{THP}/hugepages-{{16 pages}}kB/enabled": "madvise"}

WORKLOADS = (
    Workload("huge-duplicates", (DUPLICATES,) * 3),
    Workload("huge-tail", (TAIL,) * 3),
    Workload("huge-one-duplicate", (huge(then="fill data[9] same 7"), huge(), COPY)),
    Workload("huge-own-pair", (huge(then="fill data[9:11] same 7"),)),
    Workload("huge-own-five", (huge(then="fill data[9:14] same 7"),)),
    Workload("huge-forked", (huge(then="fill data[9] same 7", forks=3), COPY)),
    Workload("huge-partly-unmapped", (PARTIAL_MUNMAP,) * 2),
    Workload("huge-zeroes", (huge(10),) * 2),
    Workload("huge-zeroes-use-zero", (huge(10),) * 2, ksm={"use_zero_pages": 1}),
    Workload("huge-zeroes-locked", (huge(10, then="lock data"),) * 2),
    Workload(
        "huge-zeroes-locked-use-zero",
        (huge(10, then="lock data"),) * 2,
        ksm={"use_zero_pages": 1},
    ),
    Workload("huge-one-zero", (huge(1),) * 2, min_scans=6),
    Workload("huge-four-with-zeroes", (huge(3),) * 4, min_scans=10),
    Workload("huge-four-and-small-zeroes", (*(huge(3),) * 4, small_zeroes(2)), min_scans=10),
    Workload("huge-forked-zeroes", (huge(10, forks=3), small_zeroes(2)), min_scans=8),
    Workload("huge-zero-orphans", (huge(1), small_zeroes(2, forks=2)), min_scans=8),
    Workload("huge-whole-zero", (huge("1H"), huge("1H-1"), huge(1)), min_scans=10),
    Workload("medium-zeroes", (MEDIUM,) * 2, series=RECENT, settings=MEDIUM_SIZE, min_scans=14),
    Workload("medium-duplicates", (MEDIUM_DUPLICATES,) * 2, series=RECENT, settings=MEDIUM_SIZE),
)

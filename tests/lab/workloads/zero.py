"""Pages full of zeroes, on frames of their own."""

from __future__ import annotations

from tests.lab.workload import Workload

ZEROES = """
    map data 25
    fill data[:10] zero
    fill data[10:15] own 1
    read data[15:]              # the kernel's zero page
    advise data mergeable
"""

FORKED = f"""
    {ZEROES}
    fork 3
        fill data[5:8] zero     # a copy of its own
    end
"""

WORKLOADS = tuple(
    Workload(f"zero-{name}-{use}", scripts, ksm={"use_zero_pages": use})
    for use in (0, 1)
    for name, scripts in (("small", (ZEROES,) * 2), ("forked", (FORKED, ZEROES)))
)

"""khugepaged beside ksmd: no state at rest, but bounds of pages_sharing."""

from __future__ import annotations

from tests.lab.workload import THP, Workload

DATA = """
    map data 4H
    fill data[:1000] list 1
    fill data[2H:3H] own 2
    fill data[3H:3H+164] same 9
    fill data[3H+264:3H+274] zero
    map far 2H
    fill far[:100] list 1
    fill far[1H+88:1H+188] own 5
    map small 100               # too small for a huge page: khugepaged leaves it alone
    fill small list 3
    map closed 1H
    advise closed nohugepage
    fill closed[:300] list 4
    map again 1H                # collapses whenever ksmd has split it for its zeros: 212 pages
    advise again nohugepage     # that are shared are below max_ptes_shared, the rest is writable
    fill again[:1H-212] own 6
    advise again hugepage
    advise again mergeable
    advise data mergeable
    advise far mergeable
    advise small mergeable
    advise closed mergeable
"""

FORKS = f"""
    {DATA}
    fork 2                      # pages shared by fork merge once khugepaged has copied them
    end
"""

WORKLOADS = (
    Workload(
        "khugepaged",
        (DATA, FORKS, DATA),
        memory_mib=512,
        thp="always",
        settings={f"{THP}/khugepaged/pages_to_scan": "100000"},
        khugepaged=True,
        min_scans=40,
    ),
)

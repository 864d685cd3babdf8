"""Kinds of memory: which VMAs and which pages take part."""

from __future__ import annotations

from tests.lab.kernels import RECENT
from tests.lab.workload import Workload

KINDS = """
    map small 20
    fill small list 1
    map heap 20 heap
    fill heap list 2
    map stack 20 stack
    fill stack list 3
    map file 20 file
    read file
    fill file[3:10] list 4
    map shared 20 shared
    fill shared list 1
    map shared-file 20 shared-file
    fill shared-file list 1
    map memfd 20 memfd
    fill memfd list 5
    map shared-memfd 20 shared-memfd
    fill shared-memfd list 1
    map hugetlb 1H hugetlb
    fill hugetlb list 1
    map locked 20
    fill locked list 6
    lock locked
    map read-only 20
    fill read-only list 7
    protect read-only read
    map touched 20
    read touched                    # the kernel's zero page
    map sparse 100000000 sparse     # 381 GiB, two pages of it used
    fill sparse[5] same 8
    fill sparse[99999999] same 9
"""

REGIONS = (
    *("small", "heap", "stack", "file", "shared", "shared-file", "memfd", "shared-memfd"),
    *("hugetlb", "locked", "read-only", "touched", "sparse"),
)
HUGETLB = {"/proc/sys/vm/nr_hugepages": "8"}

ADVISED = KINDS + "\n".join(f"advise {region} mergeable" for region in REGIONS)

IDENTICAL = """
    map data 1000
    fill data list 1
    advise data mergeable
"""

PARTIAL = """
    map data 100
    fill data list 1
    advise data[10:60] mergeable
    map undone 100
    fill undone list 2
    advise undone mergeable
    advise undone[20:] unmergeable
    map holes 100
    fill holes[:30] list 3
    fill holes[50:] list 4
    advise holes mergeable
    unmap holes[60:70]
    advise holes[70:80] dontneed
"""

PROT_NONE = """
    map data 10
    fill data list 1
    advise data mergeable
    protect data none
"""

SWAPPED = """
    map data 200
    fill data list 1
    fill data[150:] own 2
    advise data mergeable
    advise data[:50] pageout
    advise data[150:170] pageout
    read data[:20]              # back in memory, and in the swap cache
"""

FEW_VMAS = """
    map data 20000
    fill data list 1
    fill data[15000:] own 2
    advise data mergeable
"""

WORKLOADS = (
    Workload("identical", (IDENTICAL,) * 8),
    Workload(
        "four-level-page-tables",
        (IDENTICAL, ADVISED),
        machines=("x86_64",),
        cpu="max,la57=off",
        settings=HUGETLB,
    ),
    Workload(  # a kernel built for 52-bit addresses falls back: fewer levels, PHYS_OFFSET negative
        "without-lpa2",
        (IDENTICAL, ADVISED),
        machines=("aarch64",),
        cpu="cortex-a76",
        settings=HUGETLB,
    ),
    Workload("partial", (PARTIAL,) * 3),
    Workload("kinds-madvise", (ADVISED,) * 3, settings=HUGETLB),
    Workload("kinds-prctl", (f"merge-any 1\n{KINDS}",) * 3, series=RECENT, settings=HUGETLB),
    Workload("kinds-prctl-late", (f"{KINDS}\nmerge-any 1",) * 3, series=RECENT, settings=HUGETLB),
    Workload("prot-none", (PROT_NONE,) * 2),
    Workload(
        "swapped",
        (SWAPPED,) * 3,
        modules=("lzo-rle", "zram"),
        settings={"/sys/block/zram0/disksize": "64M"},
        commands=("mkswap /dev/zram0", "swapon /dev/zram0"),
    ),
    Workload(
        "many-vmas",
        (f"{FEW_VMAS}\nstripes data", FEW_VMAS),
        memory_mib=512,
        settings={"/proc/sys/vm/max_map_count": "65530"},
    ),
)

"""Memory large enough that what it gives back can be seen in the guest's own free memory."""

from __future__ import annotations

from tests.lab.workload import Workload
from tests.lab.workloads.forks import outsider, shared_by

PROCESSES = 4
HUGE_PAGES = 10  # of each process
ZERO_PAGES = 400  # of each huge page; the others are unlike any other page

MOSTLY_ZERO = "\n".join(
    (
        f"map data {HUGE_PAGES}H",
        "advise data hugepage",
        "fill data own 1",
        *(f"fill data[{i}H:{i}H+{ZERO_PAGES}] zero" for i in range(HUGE_PAGES)),
        "advise data mergeable",
    )
)

WORKLOADS = (
    Workload("saving-duplicates", (outsider(5000),) * PROCESSES, memory_mib=512),
    Workload("saving-forked", (shared_by(8, 8000), outsider(8000)), memory_mib=512),
    Workload("saving-huge-zeroes", (MOSTLY_ZERO,) * PROCESSES, memory_mib=512, min_scans=20),
)

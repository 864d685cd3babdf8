"""Pages that can't be merged because something holds a reference to them."""

from __future__ import annotations

from tests.lab.kernels import RECENT
from tests.lab.workload import Workload


def holder(how: str = "", *, forks: int = 0) -> str:
    """A process with three pages that all have, in which ``how`` pins some."""
    return f"""
        map data 3
        fill data list 1
        advise data mergeable
        {how}
        fork {forks}
        end
    """


PINNED_HUGE = """
    map data 512
    advise data hugepage
    fill data list 1
    advise data mergeable
"""


def five(operation: str) -> tuple[str, ...]:
    """Of page 0 the first copy is pinned, of page 1 the third, of page 2 the last."""
    return (
        holder(f"{operation} data[0]"),
        holder(),
        holder(f"{operation} data[1]"),
        holder(),
        holder(f"{operation} data[2]"),
    )


def batched(*operations: str) -> str:
    """Pages that the batches of CPU 1 hold when the memory is frozen: the rest runs on CPU 0."""
    return "\n".join(
        ("cpu 1", "map data 100", "fill data list 1", "advise data mergeable", *operations)
    )


BATCHED = (
    batched(),
    batched("lock data[90:]"),
    batched("advise data[20:30] free", "advise data[40:50] cold"),
)

WORKLOADS = (
    Workload("batched", BATCHED, commands=("taskset -p 1 $$",)),
    Workload("pinned-pipe", five("pin")),
    Workload("pinned-io-uring", five("register")),
    Workload("pinned-orphans", (holder("pin data"), holder(forks=2), holder(), holder())),
    Workload("pinned-last-of-many", (*(holder(),) * 4, holder("pin data"), holder(forks=3))),
    Workload("pinned-smart-scan", five("pin"), series=RECENT, ksm={"smart_scan": 1}, min_scans=15),
    Workload(
        "pinned-orphans-smart-scan",
        (holder("pin data"), holder(forks=2), holder(), holder()),
        series=RECENT,
        ksm={"smart_scan": 1},
        min_scans=15,
    ),
    Workload("pinned-huge", (f"{PINNED_HUGE}\npin data[100]", PINNED_HUGE, PINNED_HUGE)),
)

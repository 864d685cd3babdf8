"""Pages that can't be merged because something holds a reference to them."""

from __future__ import annotations

from dataclasses import replace

from tests.lab.kernels import RECENT
from tests.lab.workload import WITHOUT_DAMON_STAT, Workload


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
    map data 1H
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
    batched("touch data[5:15]"),
)

MUCH_FORKED = """
    map data 2H
    advise data hugepage
    fill data list 1
    fill data[1H-12:] own 2
    advise data mergeable
    fork 20
    end
"""
CONTEXT = "/sys/kernel/mm/damon/admin/kdamonds/0/contexts/0"


# At a thousand folios per millisecond, if it can.
FAST = (
    f"echo 1000 > {CONTEXT}/monitoring_attrs/intervals/sample_us",
    f"echo 10000 > {CONTEXT}/monitoring_attrs/intervals/aggr_us",
    f"echo 2000 > {CONTEXT}/monitoring_attrs/nr_regions/max",
    f"echo 1000 > {CONTEXT}/monitoring_attrs/nr_regions/min",
)


def damon(*attributes: str) -> tuple[str, ...]:
    """DAMON looks at all of the physical memory: it holds a folio while it walks its mappings."""
    return (
        WITHOUT_DAMON_STAT,  # has to end first
        "echo 1 > /sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds",
        f"echo 1 > {CONTEXT.removesuffix('/0')}/nr_contexts",
        f"echo paddr > {CONTEXT}/operations",
        *attributes,
        f"echo 1 > {CONTEXT}/targets/nr_targets",
        f"echo 1 > {CONTEXT}/targets/0/regions/nr_regions",
        "ram=$(grep 'System RAM' /proc/iomem | tail -n 1); last=${ram#*-}",
        f"echo $((0x${{ram%%-*}})) > {CONTEXT}/targets/0/regions/0/start",
        f"echo $((0x${{last%% *}} + 1)) > {CONTEXT}/targets/0/regions/0/end",
        "echo on > /sys/kernel/mm/damon/admin/kdamonds/0/state",
    )


WORKLOADS = (
    Workload("batched", BATCHED, commands=("taskset -p 1 $$",)),
    *(
        Workload(
            "damon",
            (MUCH_FORKED, holder(), MUCH_FORKED, holder()),
            series=series,
            memory_mib=512,
            commands=damon(*FAST),
            # what it holds when ksmd wants it can be left out for ever: fork's children of a page
            commands_after_dump=("echo off > /sys/kernel/mm/damon/admin/kdamonds/0/state",),
        )
        for series in (RECENT[:2], RECENT[2:])  # so that an older one has its turn
    ),
    # of what is held, as many folios as kdamond has threads awake count as held by it
    *(
        replace(workload, commands=(WITHOUT_DAMON_STAT,))
        for workload in (
            Workload("pinned-pipe", five("pin")),
            Workload("pinned-io-uring", five("register")),
            Workload("pinned-orphans", (holder("pin data"), holder(forks=2), holder(), holder())),
            Workload(
                "pinned-last-of-many", (*(holder(),) * 4, holder("pin data"), holder(forks=3))
            ),
            Workload(
                "pinned-smart-scan", five("pin"), series=RECENT, ksm={"smart_scan": 1}, min_scans=15
            ),
            Workload(
                "pinned-orphans-smart-scan",
                (holder("pin data"), holder(forks=2), holder(), holder()),
                series=RECENT,
                ksm={"smart_scan": 1},
                min_scans=15,
            ),
            Workload("pinned-huge", (f"{PINNED_HUGE}\npin data[100]", PINNED_HUGE, PINNED_HUGE)),
        )
    ),
)

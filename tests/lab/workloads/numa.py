"""Two NUMA nodes."""

from __future__ import annotations

from tests.lab.workload import Workload


def on_node(node: int) -> str:
    """A process whose pages are on one node."""
    return f"""
        map data 12
        node data {node}
        fill data list 1
        fill data[10:] same 2
        advise data mergeable
    """


HINTED = """
    cpu 1
    map data 300
    fill data list 1
    fill data[200:] own 2
    fill data[290:] zero
    map huge 2H
    advise huge hugepage
    fill huge own 3
    fill huge[:100] list 4
    advise data mergeable
    advise huge mergeable
    cpu 0
    burn 4000                   # the kernel looks at its memory after each second of CPU time
"""

TOUCHED = f"""
    {HINTED}
    read data[:100]             # hinting faults: these pages may move to the node of the CPU
    fill data[100:110] list 1
"""

WORKLOADS = (
    *(
        Workload(
            f"numa-across-{across}",
            (on_node(0), on_node(1), on_node(0), on_node(1)),
            memory_mib=512,
            nodes=2,
            ksm={"merge_across_nodes": across, "max_page_sharing": 3},
        )
        for across in (0, 1)
    ),
    *(
        Workload(
            f"numa-balancing-{across}",
            (HINTED, TOUCHED, HINTED),
            memory_mib=512,
            nodes=2,
            ksm={"merge_across_nodes": across},
            numa_balancing=True,
        )
        for across in (0, 1)
    ),
)

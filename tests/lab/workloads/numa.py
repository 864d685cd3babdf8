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


WORKLOADS = tuple(
    Workload(
        f"numa-across-{across}",
        (on_node(0), on_node(1), on_node(0), on_node(1)),
        memory_mib=512,
        nodes=2,
        ksm={"merge_across_nodes": across, "max_page_sharing": 3},
    )
    for across in (0, 1)
)

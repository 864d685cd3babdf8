"""Frames that several processes share by fork."""

from __future__ import annotations

from tests.lab.workload import Workload


def shared_by(processes: int, pages: int) -> str:
    """Processes that share pages by fork: the first one and its children."""
    return f"""
        map data {pages}
        fill data list 1
        advise data mergeable
        fork {processes - 1}
        end
    """


def outsider(pages: int) -> str:
    """A process with its own copy of these pages."""
    return shared_by(1, pages)


NESTED = """
    map data 300
    fill data list 1
    map late 100
    advise data mergeable
    advise late mergeable
    fork 3
        fill data[:50] list 2           # a copy per child
        fill late list 3
        fork 2
            fill data[50:80] own 4
            fill late[:10] list 4
            fork 2
                fill data[200:] list 1  # written again, with the same content
            end
        end
    end
"""

WORKLOADS = (
    Workload("fork-alone", (shared_by(8, 2000),)),
    Workload("fork-outsider-last", (shared_by(8, 2000), outsider(2000))),
    Workload("fork-outsider-first", (outsider(2000), shared_by(8, 2000))),
    Workload("fork-nested", (NESTED, outsider(120))),
    Workload(
        "fork-full-outsider-last", (shared_by(30, 1), outsider(1)), ksm={"max_page_sharing": 8}
    ),
    Workload(
        "fork-full-outsider-first", (outsider(1), shared_by(30, 1)), ksm={"max_page_sharing": 8}
    ),
    Workload(
        "fork-full-two-outsiders",
        (shared_by(30, 1), outsider(1), outsider(1)),
        ksm={"max_page_sharing": 8},
    ),
    Workload(
        "fork-full-groups",
        (shared_by(3, 40), shared_by(9, 30), outsider(20), shared_by(5, 40), outsider(40)),
        ksm={"max_page_sharing": 4},
    ),
)

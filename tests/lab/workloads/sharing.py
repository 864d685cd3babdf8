"""max_page_sharing: more copies of one page than one stable node takes."""

from __future__ import annotations

from tests.lab.workload import Workload


def copies(*counts: int) -> str:
    """A process that has counts[0] copies of a first page, counts[1] of a second ..."""
    return "\n".join(
        f"map r{seed} {count}\nfill r{seed} same {seed}\nadvise r{seed} mergeable"
        for seed, count in enumerate(counts, 1)
    )


WORKLOADS = (
    Workload("sharing-default", (copies(300, 256, 257, 512, 513), copies(10, 1, 1, 1, 255))),
    Workload("sharing-2", (copies(1, 2, 3, 4, 5, 6, 101),), ksm={"max_page_sharing": 2}),
    Workload("sharing-10", (copies(9, 10, 11, 21, 95),) * 2, ksm={"max_page_sharing": 10}),
)

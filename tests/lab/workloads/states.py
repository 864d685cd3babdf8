"""KSM that ran before the dump, processes that opt in after it, memory that does not hold still."""

from __future__ import annotations

from tests.lab.kernels import RECENT
from tests.lab.truth import KSM
from tests.lab.workload import Session, Workload

DATA = """
    map data 300
    fill data list 1
    fill data[200:] own 2
    advise data mergeable
"""

GROWS = """
    map data 3
    fill data list 1
    advise data mergeable
    stop
    fork 5
    end
"""

STAYS = """
    map data 3
    fill data list 1
    advise data mergeable
"""

CHANGES = f"""
    {DATA}
    stop
    fill data[:20] own 3        # writes to merged pages
    fill data[20:40] list 1     # their old content, on other frames
    unmap data[50:60]
"""

LATE = """
    map data 300
    fill data list 1
    fill data[200:] own 2
    map heap 30 heap
    fill heap list 3
    map stack 22 stack          # what is called at the end of the script writes to its last page
    fill stack[1:21] list 5
    map file 30 file
    read file
    fill file[:20] list 4
    map memfd 20 memfd
    fill memfd[5:] list 6
    map locked 20
    fill locked list 7
    lock locked
    map read-only 20
    fill read-only same 8
    protect read-only read
    map undone 20               # the prctl does not ask what madvise said before
    fill undone list 9
    advise undone mergeable
    advise undone unmergeable
    map shared 30 shared
    fill shared list 1
    map shared-memfd 20 shared-memfd
    fill shared-memfd list 6
    stop
    merge-any 1
"""

WRITER = """
    map data 1500
    fill data list 1
    advise data mergeable
    rewrite data[1000:] 20
"""


def merged(session: Session) -> None:
    """KSM has come to rest."""
    session.scan(4)


def merged_then_forked(session: Session) -> None:
    """KSM has come to rest, then the first process forks and two processes come."""
    session.scan(4)
    session.go(0)


def merged_then_joined(session: Session) -> None:
    """As before, and two more processes come with the same pages."""
    merged_then_forked(session)
    session.start(STAYS)
    session.start(STAYS)


def merged_then_changed(session: Session) -> None:
    """KSM has come to rest, then some pages change."""
    session.scan(4)
    session.go(0)


def in_the_first_scans(session: Session) -> None:
    """KSM has recorded checksums and merged part of the memory, in the middle of a scan."""
    session.scan(1)
    session.guest.write_file(f"{KSM}/pages_to_scan", "100")
    session.guest.write_file(f"{KSM}/sleep_millisecs", "60000")
    session.guest.run(f"echo 1 > {KSM}/run; usleep 300000; echo 0 > {KSM}/run")
    session.guest.write_file(f"{KSM}/sleep_millisecs", "20")
    session.guest.write_file(f"{KSM}/pages_to_scan", "650")
    session.guest.run(f"echo 1 > {KSM}/run; usleep 10000; echo 0 > {KSM}/run")
    session.guest.write_file(f"{KSM}/pages_to_scan", "1000000000")


def opt_in(session: Session) -> None:
    """All processes opt in, in order."""
    for actor in range(len(session.actors)):
        session.go(actor)


WORKLOADS = (
    Workload("merged-before", (DATA,) * 4, before_dump=merged),
    Workload("merged-full", (DATA,) * 4, before_dump=merged, ksm={"max_page_sharing": 3}),
    Workload(
        "merged-then-forked",
        (GROWS, STAYS),
        before_dump=merged_then_forked,
        ksm={"max_page_sharing": 4},
    ),
    Workload(
        "merged-then-joined",
        (GROWS, STAYS),
        before_dump=merged_then_joined,
        ksm={"max_page_sharing": 4},
    ),
    Workload("merged-then-changed", (CHANGES, DATA, DATA), before_dump=merged_then_changed),
    Workload("half-done", (DATA,) * 4, before_dump=in_the_first_scans),
    Workload("smart-scan", (DATA,) * 2, series=RECENT, ksm={"smart_scan": 1}, min_scans=10),
    Workload("opt-in-after", (LATE,) * 3, series=RECENT, after_dump=opt_in),
    Workload(
        "writers",
        (WRITER,) * 2,
        ksm={"sleep_millisecs": 500},
        second_dump_after_seconds=1.0,
        min_scans=5,
    ),
)

"""A controller that preloads data and forks workers: the shape of Meta's Instagram."""

from __future__ import annotations

from tests.lab.kernels import RECENT, SERIES
from tests.lab.workload import Workload

WORKERS = 12

CONTROLLER = f"""
    comm controller
    {{opt_in}}
    map preloaded 4000
    fill preloaded list 1
    {{merge_preloaded}}
    fork {WORKERS}
        comm worker
        map identical 6000        # every worker loads the same
        fill identical list 2
        map common 30             # one page, again and again
        fill common same 3
        map unique 1000
        fill unique own 4
        fill preloaded[:500] own 5  # some of it is changed
        {{merge_worker}}
    end
"""

PRCTL = CONTROLLER.format(opt_in="merge-any 1", merge_preloaded="", merge_worker="")
MADVISE = CONTROLLER.format(
    opt_in="",
    merge_preloaded="advise preloaded mergeable",
    merge_worker="""
        advise identical mergeable
        advise common mergeable
        advise unique mergeable
    """,
)

WORKLOADS = (
    Workload("fork-server", (PRCTL,), series=RECENT, memory_mib=768, thp="always"),
    Workload("fork-server", (MADVISE,), series=SERIES[3:], memory_mib=768, thp="always"),
)

"""Who counts as a process: threads, shared memory descriptors, zombies, exec."""

from __future__ import annotations

from tests.lab.kernels import RECENT
from tests.lab.workload import Workload

DATA = """
    map data 100
    fill data list 1
    advise data mergeable
"""

WORKLOADS = (
    Workload("threads", (f"{DATA}\nthreads 5", DATA)),
    Workload("share-mm", (f"{DATA}\nshare-mm", f"{DATA}\nvfork", DATA)),
    Workload("zombie-leader", (f"{DATA}\ndrop-leader", f"drop-leader\n{DATA}", DATA)),
    Workload("exec", (f"merge-any 1\nexec\n{DATA}", f"merge-any 1\n{DATA}"), series=RECENT),
    Workload("merge-any-off", (f"merge-any 1\n{DATA}\nmerge-any 0", DATA, DATA), series=RECENT),
)

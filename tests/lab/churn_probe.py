"""Runs in a guest: snapshots of it, one after the other, while its processes come and go.

churn_probe.py LIVE PROCFS: so many through /proc/kcore, then so many through /proc/PID. The first,
/tmp/live0.ksm, is of a quiet system: churn starts after it. Prints how many seconds each took.
"""

import json
import os
import sys
import time
from pathlib import Path

from estimator.collect import collect
from estimator.kernel.running import open_live
from estimator.procfs.collect import collect_procfs
from estimator.snapshot import write_snapshot

live, procfs = map(int, sys.argv[1:])
target = open_live([Path("/symbols/vmlinux")])
write_snapshot(collect(target), Path("/tmp/live0.ksm"))
os.mkfifo("/tmp/quiet")
open("/tmp/quiet", "w").close()  # read by who starts churn then
seconds = []
for number in range(live):
    started = time.monotonic()
    write_snapshot(collect(target), Path(f"/tmp/live{number + 1}.ksm"))
    seconds.append(round(time.monotonic() - started, 1))
for number in range(procfs):
    started = time.monotonic()
    snapshot = collect_procfs(progress=lambda *_: None, pace=lambda _: None)
    write_snapshot(snapshot, Path(f"/tmp/procfs{number + 1}.ksm"))
    seconds.append(round(time.monotonic() - started, 1))
json.dump(seconds, sys.stdout)

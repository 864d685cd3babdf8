"""A snapshot from inside drgn: drgn -k scripts/ksm_snapshot.py OUT.ksm, or with -c VMCORE.

A second snapshot, FIRST.ksm, gives the seed of the hashes: the two can be compared then.

The package ksm-estimator has to be installed where drgn is.
"""

import sys
from pathlib import Path

from drgn import get_default_prog

from estimator.collect.load import low_priority
from estimator.collect.seed import seed_of
from estimator.errors import EstimatorError
from estimator.kernel.collect import collect_program
from estimator.snapshot.store import check_output, write_snapshot

if len(sys.argv) not in (2, 3):
    sys.exit(
        "usage: drgn {-k | -c VMCORE} [-s VMLINUX] scripts/ksm_snapshot.py OUT.ksm [FIRST.ksm]"
    )
try:
    check_output(Path(sys.argv[1]))
    seed = seed_of(Path(sys.argv[2])) if len(sys.argv) == 3 else None
    with low_priority():
        snapshot = collect_program(get_default_prog(), seed=seed)
    write_snapshot(snapshot, Path(sys.argv[1]))
except EstimatorError as error:
    print(f"ksm_snapshot: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

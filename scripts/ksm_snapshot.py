"""A snapshot from inside drgn: drgn -k scripts/ksm_snapshot.py OUT.ksm, or with -c VMCORE.

A second snapshot, FIRST.ksm, gives the seed of the hashes: the two can be compared then. With
--without-contents no page of any process is read: for an upper bound, also of dumps without them.

The package ksm-estimator has to be installed where drgn is.
"""

import argparse
import sys
from pathlib import Path

from drgn import get_default_prog

from estimator.collect.load import low_priority
from estimator.collect.seed import seed_of
from estimator.errors import EstimatorError
from estimator.kernel.collect import collect_program
from estimator.snapshot.store import check_output, write_snapshot

parser = argparse.ArgumentParser(
    usage="drgn {-k | -c VMCORE} [-s VMLINUX] scripts/ksm_snapshot.py OUT.ksm [FIRST.ksm] "
    "[--without-contents]"
)
parser.add_argument("out", type=Path)
parser.add_argument("first", type=Path, nargs="?")
parser.add_argument("--without-contents", action="store_true")
chosen = parser.parse_args()
try:
    check_output(chosen.out)
    seed = seed_of(chosen.first) if chosen.first else None
    with low_priority():
        snapshot = collect_program(
            get_default_prog(), seed=seed, without_contents=chosen.without_contents
        )
    write_snapshot(snapshot, chosen.out)
    print(f"wrote {chosen.out}; next: ksm-estimator predict {chosen.out}", file=sys.stderr)
except EstimatorError as error:
    print(f"ksm_snapshot: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

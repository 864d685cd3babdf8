"""Make vmcores with their truth by hand: ``python -m tests.lab.samples --out DIR [NAME ...]``.

Each goes to ``DIR/SERIES/NAME/``: vmcore, truth.json and vmlinux (a link into the cache).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.lab.kernels import SERIES, ensure_tools, fetch_kernel, say
from tests.lab.workload import run_workload
from tests.lab.workloads import WORKLOADS


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--series", choices=SERIES, action="append")
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads (default: all)")
    arguments = parser.parse_args()
    ensure_tools()
    for series in arguments.series or SERIES:
        kernel = fetch_kernel(series)
        for workload in WORKLOADS:
            if not workload.runs_on(series):
                continue
            if arguments.names and workload.name not in arguments.names:
                continue
            directory = arguments.out / series / workload.name
            directory.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            result = run_workload(workload, kernel, directory / "vmcore")
            result.truth.save(directory / "truth.json")
            link = directory / "vmlinux"
            link.unlink(missing_ok=True)
            link.symlink_to(result.vmlinux)
            say(f"{directory} made in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()

"""Write the page of forecasts and truths scan by scan, for `scripts/scans`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.apt import LabError
from tests.lab.kernels import ensure_tools, fetch_kernel, say
from tests.lab.scans import SCANS, ScanVerdict, cases, judge_scans, watch

PAGE = Path(__file__).parents[2] / "docs" / "scan-by-scan.md"

INTRODUCTION = f"""\
# Scan by scan

Written by `./scripts/scans`, not by hand. Each row is one workload on one real kernel: a guest sets
up the memory and freezes it, its RAM is dumped, and the forecast is made from the dump alone. Then
ksmd runs one full scan after the other, with so many pages_to_scan that it stops where a scan ends,
and after each of up to {SCANS} scans the counters of /sys/kernel/mm/ksm are read: pages_shared,
pages_sharing, pages_unshared, pages_volatile, ksm_zero_pages, stable_node_chains, stable_node_dups,
general_profit, pages_scanned and pages_skipped, as far as the kernel has them.

*Exact* numbers are those of the forecast. *Bounded* ones are not, but lie inside the bounds that
the forecast gives, for the reasons below the table. *Outside* are mistakes. The kernel's own DAMON
(DAMON_STAT) is off: it holds a page now and then, which ksmd then leaves for the next scan.
"""


def page(verdicts: Sequence[ScanVerdict], failures: Sequence[str], commit: str) -> str:
    """The page about ``verdicts``, made at ``commit``; failures, if there are any, come first."""
    sums = [sum(getattr(v, name) for v in verdicts) for name in ("compared", "exact", "bounded")]
    outside = sum(len(verdict.outside) for verdict in verdicts)
    releases = ", ".join(dict.fromkeys(verdict.release for verdict in verdicts))
    parts = [
        INTRODUCTION,
        f"Kernels: {releases}. {len(verdicts)} runs, {sums[0]:,} numbers compared: {sums[1]:,} "
        f"exact, {sums[2]:,} bounded, {outside} outside. At commit {commit}.\n",
    ]
    names = {verdict.name for verdict in verdicts}
    not_run = list(dict.fromkeys(w.name for w, _ in cases() if w.name not in names))
    if not_run:
        parts.append(f"Not run for this page: {', '.join(not_run)}.\n")
    if failures:
        parts.append("**Failed:**\n\n" + "\n".join(f"- {text}" for text in failures) + "\n")
    lines = [
        "| workload | kernel | smart_scan | scans | numbers | exact | bounded | outside |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for verdict in verdicts:
        kernel = ".".join(verdict.release.split(".")[:2])
        numbers = (verdict.scans, verdict.compared, verdict.exact, verdict.bounded)
        cells = [verdict.name, kernel, "on" if verdict.smart_scan else "off", *map(str, numbers)]
        lines.append(f"| {' | '.join([*cells, str(len(verdict.outside))])} |")
    parts.append("\n".join(lines) + "\n")
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        for reason in verdict.reasons if verdict.bounded else ():
            kernel = ".".join(verdict.release.split(".")[:2])
            smart_scan = " with smart_scan" if verdict.smart_scan else ""
            reasons.setdefault(reason, []).append(f"{verdict.name} on {kernel}{smart_scan}")
    if reasons:
        told = [f"- {', '.join(where)}: {reason}" for reason, where in reasons.items()]
        parts.append("## Bounds, and why\n\n" + "\n".join(told) + "\n")
    return "\n".join(parts)


def main() -> int:
    """Exit status 1 if a number lies outside or a workload could not be run."""
    parser = argparse.ArgumentParser(description="Forecast against truth, scan by scan.")
    parser.add_argument("--workload", action="append", help="only this one")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    parser.add_argument("--keep", type=Path, help="keep what each run gave here, and go on from it")
    parser.add_argument("--commit", required=True, help="what is proven, for the page")
    arguments = parser.parse_args()
    ensure_tools()
    verdicts, failures = [], []
    with tempfile.TemporaryDirectory(prefix="ksm-scans.") as directory:
        keep = arguments.keep or Path(directory)
        for workload, series in cases():
            if arguments.workload and workload.name not in arguments.workload:
                continue
            name = f"{workload.name}-{series}-{workload.ksm.get('smart_scan', 0)}"
            try:
                watched = watch(workload, fetch_kernel(series), keep / name)
            except LabError as error:
                failures.append(f"{name}: {str(error).splitlines()[0]}")
                say(failures[-1])
                continue
            verdicts.append(judge_scans(workload.name, *watched))
            say(f"{name}: {len(verdicts[-1].outside)} of {verdicts[-1].compared} outside")
            failures += [f"{name}: {what}: {n}" for what, n in verdicts[-1].outside.items()]
    arguments.out.write_text(page(verdicts, failures, arguments.commit))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Write the page of predictions and truths, for `scripts/proof`.

Runs every workload on every kernel it applies to, and fails if a single number differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from tests.lab.apt import LabError
from tests.lab.kernels import SERIES, ensure_tools, fetch_kernel, say
from tests.lab.proof_page import kernels, page, put_into
from tests.lab.verdict import Verdict, judge
from tests.lab.workload import Workload, run_workload
from tests.lab.workloads import SUBJECTS

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "prediction-and-truth.md", ROOT / "README.md"

Subject = tuple[str, Sequence[Verdict]]  # what it is about, its workloads on each kernel


def prove(workload: Workload, series: str) -> Verdict:
    """Run ``workload`` on the kernel of ``series`` and judge it; the dumps are deleted."""
    with tempfile.TemporaryDirectory(prefix="ksm-proof.") as directory:
        return judge(run_workload(workload, fetch_kernel(series), Path(directory) / "vmcore"))


def prove_all(modules: Iterable[ModuleType]) -> tuple[list[Subject], list[str]]:
    """All verdicts by subject, and what failed; progress goes to stderr."""
    subjects: list[Subject] = []
    failures: list[str] = []
    for module in modules:
        verdicts = []
        for workload in module.WORKLOADS:
            for series in SERIES:
                if series not in workload.series:
                    continue
                started = time.monotonic()
                name = f"{workload.name} on {series}"
                try:
                    verdict = prove(workload, series)
                except LabError as error:
                    failures.append(f"{name}: {error}")
                    say(failures[-1])
                    continue
                verdicts.append(verdict)
                say(f"{name}: difference {verdict.difference}, {time.monotonic() - started:.0f} s")
                for what, (ours, true) in verdict.differences.items():
                    failures.append(f"{name}: {what}: predicted {ours}, ksmd {true}")
                    say(f"  {failures[-1]}")
        subjects.append(((module.__doc__ or module.__name__).strip(), verdicts))
    return subjects, failures


def main() -> int:
    """Exit status 1 if anything differs or could not be run."""
    parser = argparse.ArgumentParser(description="Prediction against truth, every workload.")
    names = [module.__name__.rpartition(".")[2] for module in SUBJECTS]
    parser.add_argument("--subject", action="append", choices=names, help="only this one")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    parser.add_argument("--commit", required=True, help="what is proven, for the page")
    arguments = parser.parse_args()
    if arguments.subject and arguments.out == PAGE:
        parser.error("a page of some subjects needs --out: the published one is about all")
    ensure_tools()
    chosen = arguments.subject or names
    subjects, failures = prove_all(
        module for module, name in zip(SUBJECTS, names, strict=True) if name in chosen
    )
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(page(subjects, failures, arguments.commit))
    if arguments.out == PAGE:
        README.write_text(put_into(README.read_text(), kernels(subjects)))
    say(f"{arguments.out}: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

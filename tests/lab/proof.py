"""Write the page of predictions and truths, for `scripts/proof`.

Runs every workload on every kernel it applies to, and fails if a single number differs.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from tests.lab.apt import LabError
from tests.lab.kernels import ARM64, SERIES, ensure_tools, fetch_kernel, machine_of, say
from tests.lab.proof_page import KERNELS_ARM64_BEGIN, KERNELS_BEGIN, kernels, page, put_into
from tests.lab.verdict import Verdict, judge
from tests.lab.workload import Workload, run_workload
from tests.lab.workloads import SUBJECTS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = {
    "x86_64": ROOT / "docs" / "prediction-and-truth.md",
    "arm64": ROOT / "docs" / "prediction-and-truth-arm64.md",
}
KERNELS = {"x86_64": (SERIES, KERNELS_BEGIN), "arm64": (ARM64, KERNELS_ARM64_BEGIN)}
"""The series of an architecture, and where in the README its table begins."""

Subject = tuple[str, Sequence[Verdict]]  # what it is about, its workloads on each kernel


def prove(workload: Workload, series: str, keep: Path | None = None) -> Verdict:
    """Run ``workload`` on the kernel of ``series`` and judge it; the dumps are deleted.

    ``keep``: a directory of verdicts, of which one that is there is taken.
    """
    if keep is None:
        return _prove(workload, series)
    kept = keep / f"{workload.name}-{series}.pickle"
    if not kept.exists():
        kept.write_bytes(pickle.dumps(_prove(workload, series)))
    found: Verdict = pickle.loads(kept.read_bytes())
    return found


def _prove(workload: Workload, series: str) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="ksm-proof.") as directory:
        return judge(run_workload(workload, fetch_kernel(series), Path(directory) / "vmcore"))


def prove_all(
    modules: Iterable[ModuleType], every: Sequence[str], keep: Path | None = None
) -> tuple[list[Subject], list[str]]:
    """All verdicts on kernels of the series ``every`` by subject, and what failed.

    Progress goes to stderr. ``keep`` as for ``prove``.
    """
    subjects: list[Subject] = []
    failures: list[str] = []
    for module in modules:
        verdicts = []
        for workload in module.WORKLOADS:
            for series in every:
                if not workload.runs_on(series):
                    continue
                started = time.monotonic()
                name = f"{workload.name} on {series}"
                try:
                    verdict = prove(workload, series, keep)
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
    parser.add_argument("--arch", choices=KERNELS, default="x86_64")
    parser.add_argument("--series", action="append", help="only this kernel")
    parser.add_argument("--out", type=Path, help="the page (default: that of the architecture)")
    parser.add_argument("--keep", type=Path, help="verdicts: a proof that was stopped goes on here")
    parser.add_argument("--commit", required=True, help="what is proven, for the page")
    arguments = parser.parse_args()
    every, table = KERNELS[arguments.arch]
    if (arguments.subject or arguments.series) and not arguments.out:
        parser.error("a page of some of it needs --out: the published one is about all")
    for series in arguments.series or ():
        if series not in every:
            parser.error(f"no such series: {series}; there are {', '.join(every)}")
    ensure_tools(machine_of(every[0]))
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    chosen = arguments.subject or names
    subjects, failures = prove_all(
        (module for module, name in zip(SUBJECTS, names, strict=True) if name in chosen),
        arguments.series or every,
        arguments.keep,
    )
    out = arguments.out or PAGES[arguments.arch]
    out.parent.mkdir(exist_ok=True)
    out.write_text(page(subjects, failures, arguments.commit))
    if not arguments.out:
        README.write_text(put_into(README.read_text(), kernels(subjects), table))
    say(f"{out}: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Write the page about real programs, for `scripts/proof --guest`; fails if a number differs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from estimator.advice.borders import borders
from estimator.advice.verdict import savings
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Outcome
from tests.lab.kernels import ensure_tools, fetch_kernel, say
from tests.lab.proof_page import markdown
from tests.lab.real_programs import PROGRAMS, SLICE
from tests.lab.real_proof import Proof, prove
from tests.lab.systemd_guest import MEMORY_MIB

PAGE = Path(__file__).parents[2] / "docs" / "real-programs.md"
KERNELS = ("7.3", "6.12")
MIB = 1 << 20
COLUMNS = (
    *("program", "processes", "anonymous", "visited", "merged", "zero", "fork"),
    *("freed", "zero-filled", "inside", "between", "records", "net"),
)
INTRODUCTION = """\
# Real programs

Written by `./scripts/proof --guest`, not by hand, at commit {commit}. A guest boots Debian 13 with
systemd as its init. systemd starts each program with `MemoryKSM=yes`, it does some work
(`tests/lab/services/opt/programs/traffic.py`), and the cgroup freezer stops all of them. The memory
is read in four ways: by the command inside, with `--live` and `--procfs`, and from outside, with
`--qemu` and from a dump with `--core`. A prediction is made from each. Then ksmd runs in the guest
until its counters stay the same. Compared are the counters of the system, of every process, of
every unit (sums of its processes) and of every VMA.

Settings: use_zero_pages=1; smart_scan=0, so that unshared and volatile are one number each;
transparent huge pages as Debian has them (always), but khugepaged does not scan; everything else as
the kernel starts, but ksmd without pauses. The guest has 2 CPUs, emulated, and {memory} MiB.

What the columns of the programs say, each program alone, as if ksmd saw no other:

- *anonymous*: frames that its processes map, in MiB. *visited*: pages that ksmd visits in a full
  scan, its cost. *merged*: ksm_merging_pages. *zero*: ksm_zero_pages. *fork*: pages that merge
  but free nothing, because fork shares their frame already.
- *freed*: MiB that become free, of which *zero-filled*, copies *inside* one process, and copies
  *between* processes. *records*: MiB of rmap_items, stable nodes and mm slots. *net*: freed less
  records, what is left. `--procfs` does not see the pieces of huge pages that nobody maps and
  that a split frees; the tables of programs are from the dump.
"""


def page(proofs: Sequence[Proof], commit: str) -> str:
    """The page about ``proofs``, one per kernel."""
    parts = [INTRODUCTION.format(commit=commit, memory=MEMORY_MIB)]
    versions = [
        [program.name, version]
        for program, version in zip(proofs[0].programs, proofs[0].versions, strict=True)
    ]
    parts.append("## The programs\n\n" + markdown(["program", "version"], versions, text=2))
    for proof in proofs:
        parts.append(f"## Linux {proof.release}\n\n{_truth(proof)}\n{_programs(proof)}")
    return "\n".join(parts)


def _truth(proof: Proof) -> str:
    """Predicted and true counters by the way the memory was read."""
    numbers = proof.numbers()
    ways = list(numbers)
    counters = [what for what in numbers[ways[0]] if " " not in what]
    rows = [
        [what, *(f"{numbers[way][what][0]:,}" for way in ways), f"{numbers[ways[0]][what][1]:,}"]
        for what in counters
    ]
    rows.append(["numbers compared", *(f"{len(numbers[way]):,}" for way in ways), ""])
    different = proof.differences()
    rows.append(["of them differ", *(str(len(different.get(way, {}))) for way in ways), ""])
    header = ["predicted, and then ksmd", *(f"`--{way}`" for way in ways), "ksmd"]
    text = f"{len(proof.pids)} processes were frozen.\n\n" + markdown(header, rows, text=1)
    for way, wrong in different.items():
        for what, (ours, true) in wrong.items():
            text += f"\n- **differs**, `--{way}`: {what}: predicted {ours:,}, ksmd {true:,}"
    return text


def _programs(proof: Proof) -> str:
    rows = [
        _row(proof, program.name, program.cgroups(proof.snapshot.processes))
        for program in proof.programs
    ]
    rows.append(_row(proof, "all together", (f"/{SLICE}",)))
    return markdown(list(COLUMNS), rows, text=1)


def _row(proof: Proof, name: str, cgroups: tuple[str, ...]) -> list[str]:
    snapshot = proof.snapshot
    prediction = predict(snapshot, Policy(scope="enabled", cgroups=cgroups))
    found = savings(snapshot, prediction)
    zero = np.flatnonzero(np.isin(prediction.outcome, (Outcome.ZERO_PAGE, Outcome.SPLIT_AWAY)))
    zero_filled = float(prediction.credits.of_row[zero].sum())
    each_mm = borders(snapshot, prediction, np.arange(len(snapshot.processes)))
    mm_ids = prediction.processes["mm_id"]
    rows = snapshot.vmas["mm_id"].isin(mm_ids).to_numpy()[snapshot.mappings["vma_id"]]
    page_bytes = snapshot.info["kernel"]["page_size"]

    def mib(pages: float) -> str:
        return f"{pages * page_bytes / MIB:.1f}"

    return [
        name,
        str(len(mm_ids)),
        mib(snapshot.mappings["frame_id"][rows].nunique()),
        f"{found.scanned_pages:,}",
        f"{prediction.processes['ksm_merging_pages'].sum():,}",
        f"{prediction.processes['ksm_zero_pages'].sum():,}",
        f"{found.fork_shared_pages:,}",
        mib(prediction.freed.frames),
        mib(zero_filled),
        mib(each_mm.within - zero_filled),
        mib(each_mm.across),
        f"{found.bookkeeping_bytes / MIB:.1f}",
        f"{found.net_bytes / MIB:.1f}",
    ]


def main() -> int:
    """Exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(description="Real programs: prediction against ksmd.")
    parser.add_argument("--series", action="append", help=f"kernels (default {KERNELS})")
    names = [program.name for program in PROGRAMS]
    parser.add_argument("--program", action="append", choices=names, help="only this one")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    parser.add_argument("--commit", required=True, help="what is proven, for the page")
    arguments = parser.parse_args()
    if (arguments.program or arguments.series) and arguments.out == PAGE:
        parser.error("a page of a part needs --out: the published one is about all")
    ensure_tools()
    programs = [p for p in PROGRAMS if p.name in (arguments.program or names)]
    proofs = [prove(fetch_kernel(series), programs) for series in arguments.series or KERNELS]
    arguments.out.write_text(page(proofs, arguments.commit))
    failures = sum(len(wrong) for proof in proofs for wrong in proof.differences().values())
    say(f"{arguments.out}: {failures} numbers differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

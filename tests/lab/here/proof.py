"""Prediction by --procfs against ksmd of this machine, for `scripts/proof --here`."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.procfs.collect import collect_procfs
from estimator.snapshot.snapshot import Snapshot
from tests.lab.compare import Numbers, all_numbers, counter_numbers, unequal
from tests.lab.here import programs as of
from tests.lab.here.machine import borrowed, command, no_pace, report, settle, silent
from tests.lab.here.started import Started
from tests.lab.kernels import say
from tests.lab.truth import State

PAGE = Path(__file__).parents[3] / "docs" / "proof-here.md"
PROGRAMS = tuple(of.NEEDS)
OPTED_IN = Policy(scope="enabled")


@dataclass(frozen=True)
class Proof:
    """What was predicted of the programs at rest, and what ksmd made of them.

    ``programs``: name by pid. ``numbers``: of the prediction before ksmd ran; ``merged_numbers``:
    of one made afterwards, from what was merged by then.
    """

    use_zero_pages: bool
    programs: dict[int, str]
    prediction: Prediction
    truth: State
    numbers: Numbers
    merged_numbers: Numbers

    @property
    def differences(self) -> Numbers:
        """What is not as predicted."""
        merged = {f"{what}, once merged": pair for what, pair in self.merged_numbers.items()}
        return unequal(self.numbers | merged)


def prove(programs: Sequence[of.Program], *, use_zero_pages: bool) -> Proof:
    """Start ``programs``, stop them when they have worked, predict, let ksmd run, compare."""
    with (
        borrowed(use_zero_pages=str(int(use_zero_pages))),
        tempfile.TemporaryDirectory(prefix="ksm-here.") as place,
        Started(Path(place)) as started,
    ):
        Path(place).chmod(0o755)  # some of them give up being root
        for program in programs:
            say(f"starting {program.__name__}: {program.__doc__}")
            program(started)
        started.signal(signal.SIGSTOP)
        started.until(started.stopped, "what was stopped")
        names = started.programs()
        snapshot = look()
        prediction = predict(snapshot, OPTED_IN)
        say("ksmd runs")
        settle()
        truth = report()
        afterwards = look()
        return Proof(
            use_zero_pages,
            names,
            prediction,
            truth,
            all_numbers(prediction, truth, snapshot),
            all_numbers(predict(afterwards, OPTED_IN), truth, afterwards),
        )


def look() -> Snapshot:
    """A snapshot of this machine by --procfs."""
    return collect_procfs(progress=silent, pace=no_pace)


def page(proofs: Sequence[Proof], versions: Sequence[str], commit: str) -> str:
    """The page about them, as Markdown."""
    numbers = sum(len(proof.numbers) + len(proof.merged_numbers) for proof in proofs)
    differ = sum(len(proof.differences) for proof in proofs)
    text = (
        "# Real programs on a real machine\n\n"
        "Written by `./scripts/proof --here`, not by hand. Programs start opted in to KSM (prctl), "
        "work, and are stopped. `--procfs` predicts what ksmd will do with them; then ksmd of the "
        "machine runs until its counters stay the same. A cell is *predicted / ksmd*, in pages; "
        "compared are the counters of /sys/kernel/mm/ksm, of every process and of every VMA, and "
        "again with a prediction made when all was merged. Every setting of the machine is put "
        f"back.\n\nKernel {platform.release()}; {numbers:,} numbers compared, {differ} of them "
        f"differ. At commit {commit}.\n"
    )
    text += "\n" + "".join(f"- {version}\n" for version in versions)
    for proof in proofs:
        text += f"\n## use_zero_pages {int(proof.use_zero_pages)}\n\n{_table(proof)}"
    return text


def _table(proof: Proof) -> str:
    columns = ("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
    predicted = proof.prediction.processes.set_index("pid")
    true = pd.DataFrame([{"pid": p["pid"], **p["ksm_stat"]} for p in proof.truth.processes])
    rows = pd.DataFrame({"program": proof.programs}).rename_axis("pid")
    rows = rows.join(predicted[[*columns]]).join(true.set_index("pid").add_suffix(" of ksmd"))
    lines = [f"| program | processes | {' | '.join(columns)} |", f"| --- |{' ---: |' * 4}"]
    for program, part in rows.groupby("program"):
        cells = [f"{part[n].sum():,.0f} / {part[f'{n} of ksmd'].sum():,.0f}" for n in columns]
        lines.append(f"| {program} | {len(part)} | {' | '.join(cells)} |")
    system = counter_numbers(proof.prediction, proof.truth)
    lines += ["", "| counter | predicted | ksmd |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {ours:,} | {theirs:,} |" for name, (ours, theirs) in system.items()]
    lines += [""] * bool(proof.differences)
    lines += [f"- differs: {what}: {pair}" for what, pair in proof.differences.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit status 1 if anything differs, 3 if the machine is not to be used."""
    parser = argparse.ArgumentParser(description="Real programs, and the ksmd of this machine.")
    parser.add_argument("--commit", required=True, help="what is proven, for the page")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    arguments = parser.parse_args()
    return command("proof --here", lambda: _prove_all(arguments))


def _prove_all(arguments: argparse.Namespace) -> int:
    chosen = [program for program in PROGRAMS if not of.missing(program)]
    versions = [
        of.version(program) if program in chosen else f"{program.__name__}: not on this machine"
        for program in PROGRAMS
    ]
    proofs = [prove(chosen, use_zero_pages=zero) for zero in (False, True)]
    arguments.out.write_text(page(proofs, versions, arguments.commit))
    for proof in proofs:
        for what, (ours, theirs) in proof.differences.items():
            say(f"{what}: predicted {ours}, ksmd {theirs}")
    return 1 if any(proof.differences for proof in proofs) else 0


if __name__ == "__main__":
    sys.exit(main())

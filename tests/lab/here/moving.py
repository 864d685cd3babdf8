"""Programs under load: `--passes 3` against ksmd that scans them under the same load."""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from estimator.collect.passes import collect_passes
from estimator.ksm.predict import predict
from estimator.ksm.prediction import Prediction
from estimator.procfs.collect import collect_procfs
from estimator.snapshot.changes import Changes, with_flags
from estimator.snapshot.snapshot import Snapshot
from tests.lab.apt import LabError
from tests.lab.here import load
from tests.lab.here import programs as of
from tests.lab.here.machine import borrowed, command, no_pace, scans, silent
from tests.lab.here.proof import OPTED_IN, PROGRAMS
from tests.lab.here.started import Started
from tests.lab.kernels import say

PAGE = Path(__file__).parents[3] / "docs" / "proof-under-load.md"
PASSES = 3
LOAD_SECONDS = 2.0
WARM_ROUNDS = 10
LEAST_SCANS = 6
LATEST_SCANS = 3
MOST_SCANS = 30
AT_REST = 0.01
ALLOWED = {"pages_shared": 0.03, "pages_sharing": 0.03, "pages_volatile": 0.10}
"""By what part of ksmd's number the prediction may be off."""


@dataclass(frozen=True)
class Moving:
    """What was predicted from several passes, and what ksmd showed after each of its scans.

    ``once``: predicted from the last pass alone. ``seconds``: from one pass or scan to the next.
    """

    prediction: Prediction
    once: Prediction
    scans: list[dict[str, int]]
    seconds: float

    def true(self, name: str) -> float:
        """The median of a counter over the latest scans."""
        return statistics.median(scan[name] for scan in self.scans[-LATEST_SCANS:])

    def error(self, name: str) -> float:
        """Predicted, as a part of what ksmd showed, less 1."""
        return self.prediction.counters[name] / self.true(name) - 1

    @property
    def outside(self) -> list[str]:
        """The counters that are further off than is allowed."""
        return [name for name, part in ALLOWED.items() if abs(self.error(name)) > part]

    @property
    def moved_pages(self) -> int:
        """How much of pages_sharing of the last pass is not there when all passes are seen."""
        return self.once.counters["pages_sharing"] - self.prediction.counters["pages_sharing"]


def watch(programs: Sequence[of.Program], seconds: float) -> Moving:
    """Start ``programs``, keep them at work, look at them, then let ksmd scan them.

    Two looks are ``seconds`` apart, or as much more as one takes, and so are ksmd's scans: what
    counts as changed depends on the time in between.
    """
    with (
        borrowed(),
        tempfile.TemporaryDirectory(prefix="ksm-here.") as place,
        Started(Path(place)) as started,
    ):
        Path(place).chmod(0o755)
        for program in programs:
            say(f"starting {program.__name__}: {program.__doc__}")
            program(started)
        started.client(sys.executable, load.__file__, place, str(LOAD_SECONDS))
        started.until(lambda: started.rounds() >= WARM_ROUNDS, "the load")
        say("looking, under load")
        looks: list[float] = []

        def look() -> Snapshot:
            looks.append(time.monotonic())
            return collect_procfs(seed=0, progress=silent, pace=no_pace)

        snapshot = collect_passes(look, PASSES, seconds)
        apart = (looks[-1] - looks[0]) / (PASSES - 1)
        prediction, once = predict(snapshot, OPTED_IN), predict(of_one_pass(snapshot), OPTED_IN)
        say(f"ksmd scans, under load, every {apart:.0f} seconds")
        rounds, found = started.rounds(), []
        for counters in scans(apart):
            found.append(counters)
            if len(found) >= LEAST_SCANS and at_rest(found):
                break
            if len(found) == MOST_SCANS:
                raise LabError(f"ksmd is not at rest after {MOST_SCANS} scans: {found[-4:]}")
        if started.rounds() == rounds:
            raise LabError("the load has stopped")
        return Moving(prediction, once, found, apart)


def of_one_pass(snapshot: Snapshot) -> Snapshot:
    """The last pass alone: nothing of what the earlier ones say."""
    nothing = np.zeros(len(snapshot.mappings), np.bool_)
    info = snapshot.info | {"passes": {"count": 1, "interval_seconds": 0}}
    return replace(with_flags(snapshot, Changes(nothing, nothing, nothing)), info=info)


def at_rest(scans: Sequence[dict[str, int]]) -> bool:
    """Whether the latest scans have pages_sharing within AT_REST of each other."""
    latest = [scan["pages_sharing"] for scan in scans[-LATEST_SCANS:]]
    return len(latest) == LATEST_SCANS and max(latest) - min(latest) <= AT_REST * max(latest)


def page(moving: Moving, versions: Sequence[str], commit: str) -> str:
    """The page about it, as Markdown."""
    shared = moving.once.counters["pages_sharing"]
    text = (
        "# Programs under load\n\n"
        "Written by `./scripts/proof --moving`, not by hand. Programs start opted in to KSM and "
        f"are asked something every {LOAD_SECONDS:g} seconds. `--procfs --passes {PASSES}` looks "
        f"every {moving.seconds:.0f} seconds; then ksmd makes a full scan every "
        f"{moving.seconds:.0f} seconds under the same load, until pages_sharing of {LATEST_SCANS} "
        f"scans is within {AT_REST:.0%}. *ksmd* is the median of these scans, *one pass* what the "
        "last look alone predicts.\n\n"
        f"Kernel {platform.release()}, at commit {commit}; {len(moving.scans)} scans. Between the "
        f"passes {moving.moved_pages:,} of {shared:,} pages_sharing moved "
        f"({moving.moved_pages / shared:.1%}).\n\n"
    )
    text += "".join(f"- {version}\n" for version in versions)
    text += "\n| counter | one pass | predicted | ksmd | off by | allowed |\n"
    text += "| --- | ---: | ---: | ---: | ---: | ---: |\n"
    for name in (*ALLOWED, "pages_unshared"):
        part = f"{ALLOWED[name]:.0%}" if name in ALLOWED else ""
        text += (
            f"| {name} | {moving.once.counters[name]:,} | {moving.prediction.counters[name]:,} "
            f"| {moving.true(name):,.0f} | {moving.error(name):+.1%} | {part} |\n"
        )
    text += "\nksmd after each scan:\n\n| scan | " + " | ".join(ALLOWED) + " |\n"
    text += "| ---: |" + " ---: |" * len(ALLOWED) + "\n"
    for number, counters in enumerate(moving.scans, 1):
        text += f"| {number} | " + " | ".join(f"{counters[n]:,}" for n in ALLOWED) + " |\n"
    return text


def main() -> int:
    """Exit status 1 if a counter is further off than allowed, 3 if ksmd can't be used here."""
    parser = argparse.ArgumentParser(description="Programs under load, and ksmd of this machine.")
    parser.add_argument("--commit", required=True, help="what is proven, for the page")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    arguments = parser.parse_args()
    return command("proof --moving", lambda: _prove(arguments))


def _prove(arguments: argparse.Namespace) -> int:
    chosen = [program for program in PROGRAMS if not of.missing(program)]
    moving = watch(chosen, arguments.interval)
    text = page(moving, [of.version(program) for program in chosen], arguments.commit)
    arguments.out.write_text(text)
    for name in moving.outside:
        say(f"{name} is off by {moving.error(name):+.1%}")
    return 1 if moving.outside else 0


if __name__ == "__main__":
    sys.exit(main())

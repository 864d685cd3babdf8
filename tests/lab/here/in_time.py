"""Forecasts in time against the ksmd of this machine, for `scripts/proof --time`."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from estimator.advice.advisor import AdvisorSettings
from estimator.advice.cost_terms import CostTerms
from estimator.advice.moment import marks
from estimator.advice.pace import Pacing, pace
from estimator.advice.page_cost import CostRange, cost_by_terms
from estimator.cli.page_cost import terms_of
from estimator.collect.page_cost import measure
from estimator.ksm.forecast import forecast
from tests.lab.apt import LabError
from tests.lab.here import held
from tests.lab.here.machine import KSM, SETTLE_SECONDS, borrowed, command
from tests.lab.here.proof import OPTED_IN, look
from tests.lab.kernels import say

PAGE = Path(__file__).parents[3] / "docs" / "proof-in-time.md"
MEMORY = (("alone:64", "same:96"), ("alone:64", "same:96"), ("huge:64",))
"""Of each process."""
SHARE = 0.9
ALLOWED = 0.2
"""By what part of ksmd's number the forecast may be off: the median of the runs of a setting."""
REPEATS = 3
LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Setting:
    """How ksmd is set; with ``advisor_seconds`` (its target) pages_to_scan is where it starts."""

    pages_to_scan: int
    sleep_millisecs: int
    smart_scan: int
    advisor_seconds: int | None = None

    def __str__(self) -> str:
        advised = f", advisor to {self.advisor_seconds} s" if self.advisor_seconds else ""
        return (
            f"{self.pages_to_scan:,} / {self.sleep_millisecs} ms, smart_scan {self.smart_scan}"
            + (advised)
        )


SETTINGS = (
    Setting(1000, 5, 0),
    Setting(2000, 20, 1),
    Setting(5000, 20, 0),
    Setting(20000, 50, 1),
    Setting(500, 20, 1, advisor_seconds=3),
)


@dataclass(frozen=True)
class InTime:
    """``seconds``: until SHARE of the saving is there, without waiting for a CPU that others use;
    ``cpu_seconds``: of ksmd until rest.
    """

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Run:
    """One run. ``load``: of the machine at its end; ``terms``: measured while ksmd ran."""

    setting: Setting
    ours: InTime
    ksmd: InTime
    load: float
    terms: CostTerms

    def ratio(self, name: str) -> float:
        """Forecast over ksmd."""
        return float(getattr(self.ours, name) / getattr(self.ksmd, name))


@contextlib.contextmanager
def memory(kinds: Sequence[Sequence[str]]) -> Iterator[None]:
    """Processes that hold it; each opts in before the next one starts.

    Where memory is looked at through /proc, they are taken to be on ksmd's list as they started.
    """
    started: list[subprocess.Popen[str]] = []
    try:
        for number, parts in enumerate(kinds):
            line = [sys.executable, held.__file__, str(number), *parts]
            pipe = subprocess.PIPE
            process = subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True)
            started.append(process)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise LabError("memory can't be held")
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


def run(setting: Setting, kinds: Sequence[Sequence[str]] = MEMORY) -> Run:
    """Forecast it, and let ksmd do it."""
    with memory(kinds), borrowed(smart_scan=str(setting.smart_scan)), _advised(setting):
        snapshot = look()
        found = forecast(snapshot, OPTED_IN)
        scans = found.at_rest.scans
        with _measuring() as measured:
            ksmd = _ksmd(setting, scans)
    cost = cost_by_terms(terms := _median_of(measured), "measured meanwhile")
    advisor = None
    if setting.advisor_seconds:
        advisor = AdvisorSettings(setting.advisor_seconds, min_pages_to_scan=setting.pages_to_scan)
    pacing = Pacing(setting.pages_to_scan, setting.sleep_millisecs, advisor)
    paced = pace(snapshot, found, pacing, CostRange(cost, cost))
    seconds = next(mark.seconds[1] for mark in marks(found, paced) if mark.share == SHARE)
    ours = InTime(seconds, float(paced.scans["cpu_seconds"].iloc[scans - 1]))
    return Run(setting, ours, ksmd, os.getloadavg()[0], terms)


@contextlib.contextmanager
def _measuring() -> Iterator[list[CostTerms]]:
    """Measure again and again; at the end the list has what was found."""
    found: list[CostTerms] = []
    ended = threading.Event()

    def keep_on() -> None:
        while not ended.is_set():
            found.append(terms_of(measure()))

    with ThreadPoolExecutor(1) as pool:
        at_work = pool.submit(keep_on)
        try:
            yield found
        finally:
            ended.set()
        at_work.result()


def _median_of(terms: Sequence[CostTerms]) -> CostTerms:
    each = [asdict(one) for one in terms]
    if any(None in one.values() for one in each):
        raise LabError("this kernel gives no huge pages: what a split costs is not known")
    return CostTerms(**{name: statistics.median(one[name] for one in each) for name in each[0]})


@contextlib.contextmanager
def _advised(setting: Setting) -> Iterator[None]:
    """The scan-time advisor as it is to be, and as it was at the end."""
    if not setting.advisor_seconds:
        (KSM / "pages_to_scan").write_text(str(setting.pages_to_scan))
        yield
        return
    target, before = (
        KSM / "advisor_target_scan_time",
        (KSM / "advisor_target_scan_time").read_text(),
    )
    try:
        target.write_text(str(setting.advisor_seconds))
        yield
    finally:
        (KSM / "advisor_mode").write_text("none")
        target.write_text(before)


def _ksmd(setting: Setting, scans: int) -> InTime:
    """Start ksmd, watch it for so many full scans."""
    (KSM / "sleep_millisecs").write_text(str(setting.sleep_millisecs))
    if setting.advisor_seconds:
        (KSM / "advisor_mode").write_text("scan-time")
    schedstat = _schedstat()
    (spent, waited), done = _busy_and_waiting(schedstat), _counter("full_scans")
    began, seen = time.monotonic(), []
    (KSM / "run").write_text("1")
    while _counter("full_scans") < done + scans:
        took = time.monotonic() - began
        seen.append((took - (_busy_and_waiting(schedstat)[1] - waited), _counter("pages_sharing")))
        if took > SETTLE_SECONDS:
            raise LabError(f"ksmd made no {scans} full scans in {SETTLE_SECONDS:.0f} seconds")
        time.sleep(LOOK_SECONDS)
    took, (cpu_seconds, waiting) = time.monotonic() - began, _busy_and_waiting(schedstat)
    whole = _counter("pages_sharing")
    (KSM / "run").write_text("0")
    seen.append((took - (waiting - waited), whole))
    return InTime(next(s for s, sharing in seen if sharing >= SHARE * whole), cpu_seconds - spent)


def _counter(name: str) -> int:
    return int((KSM / name).read_text())


def _schedstat() -> Path:
    """Of ksmd."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "comm").read_text() == "ksmd\n":
                return place / "schedstat"
    raise LabError("ksmd is not seen")


def _busy_and_waiting(schedstat: Path) -> tuple[float, float]:
    """Seconds on a CPU, and waiting for one (Documentation/scheduler/sched-stats.rst)."""
    busy, waiting, _ = map(int, schedstat.read_text().split())
    return busy / 1e9, waiting / 1e9


def median(runs: Sequence[Run], name: str) -> float:
    """The median of the ratios, less 1."""
    return statistics.median(each.ratio(name) for each in runs) - 1


def page(runs: Sequence[Run], commit: str) -> str:
    """The page about them, as Markdown."""
    kinds = "; ".join(" + ".join(parts) for parts in MEMORY)
    text = (
        "# Forecasts in time\n\n"
        "Written by `./scripts/proof --time`, not by hand. Processes that have opted in hold "
        f"memory of a known kind ({kinds}, in MiB each). The terms of a page's cost are measured "
        "in user space, as `check --page-cost` does it, again and again while ksmd runs (how fast "
        "this machine is changes threefold within minutes, with what others do on it; the median "
        "is taken). `--procfs` looks before ksmd starts, and `forecast` says of that and the terms "
        f"when {SHARE:.0%} of the saving is there and how much CPU time ksmd needs until all has "
        "merged. A cell is *forecast / ksmd*, in seconds, "
        "without those in which ksmd waited for a CPU that others used (its schedstat). Off "
        f"by: the median of the runs of a setting; allowed is {ALLOWED:.0%}.\n\n"
        f"Kernel {platform.release()}, {os.cpu_count()} CPUs, at commit {commit}.\n\n"
        f"| pages_to_scan / sleep | load | until {SHARE:.0%} | off by | CPU until rest | off by |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for setting in dict.fromkeys(each.setting for each in runs):
        part = [each for each in runs if each.setting == setting]
        off = {name: f"{median(part, name):+.0%}" for name in ("seconds", "cpu_seconds")}
        for each in part:
            ours, ksmd = each.ours, each.ksmd
            text += (
                f"| {setting} | {each.load:.1f} | {ours.seconds:.1f} / {ksmd.seconds:.1f} | "
                f"{off['seconds']} | {ours.cpu_seconds:.2f} / {ksmd.cpu_seconds:.2f} | "
                f"{off['cpu_seconds']} |\n"
            )
            off = dict.fromkeys(off, "")
    names = [name.removesuffix("_seconds") for name in asdict(runs[0].terms)]
    text += (
        f"\nThe terms, in µs, from the least to the most of all runs:\n\n| {' | '.join(names)} |\n"
    )
    text += "|" + " ---: |" * len(names) + "\n| "
    for name in names:
        all_of_it = [getattr(each.terms, f"{name}_seconds") for each in runs]
        ends = [f"{1e6 * end:.3g}" for end in (min(all_of_it), max(all_of_it))]
        text += " to ".join(dict.fromkeys(ends)) + " | "
    return text.rstrip() + "\n"


def main() -> int:
    """Exit status 1 if a forecast is further off than allowed, 3 if ksmd can't be used here."""
    parser = argparse.ArgumentParser(description="Forecasts in time, and ksmd of this machine.")
    parser.add_argument("--commit", required=True, help="what is proven, for the page")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of each setting")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    arguments = parser.parse_args()
    return command("proof --time", lambda: _prove(arguments))


def _prove(arguments: argparse.Namespace) -> int:
    runs = []
    for setting in SETTINGS * arguments.repeats:
        runs.append(found := run(setting))
        off = [f"{found.ratio(name) - 1:+.0%}" for name in ("seconds", "cpu_seconds")]
        say(f"{setting}: {found.ours}, {found.ksmd}, off by {' and '.join(off)}, {found.terms}")
        arguments.out.write_text(page(runs, arguments.commit))
    failed = False
    for setting in SETTINGS:
        part = [each for each in runs if each.setting == setting]
        for name in ("seconds", "cpu_seconds"):
            if abs(off_by := median(part, name)) > ALLOWED:
                say(f"{setting}: {name} off by {off_by:+.0%}")
                failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Hundreds of damaged dumps in the tests; thousands with ``scripts/damage``.

Each case runs in a process that may be killed: a crash, a hang or too much memory is a result.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from estimator.errors import EstimatorError
from estimator.kernel.collect import collect
from estimator.kernel.core import open_core
from estimator.kernel.symbols import OWN
from estimator.kernel.target import Target
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import write_snapshot
from tests.lab.apt import LabError
from tests.lab.damage import Ranges, applied, cut, damage, places
from tests.lab.kernels import SERIES, ensure_tools, fetch_kernel, say
from tests.lab.spoiled import without_note

CASE_SECONDS = 60.0
MEMORY_BYTES = 6 << 30
CUTS_PERCENT = (90, 50, 10)
REOPENED_ONE_IN = 8  # cases on headers or another format: symbols are loaded anew for each
CARRIED = ("BTF", "kallsyms", "VMCOREINFO")  # what is read where there are no symbols
WITHOUT_NOTE = "elf-without-note"
GOOD = ("same", "told", "refused")


@dataclass(frozen=True)
class Outcome:
    """``result``: "same" as undamaged; "told" what is missing; "refused" with an EstimatorError;
    "silent": other numbers without a word; "failed": crash, hang, memory. ``detail``: on it."""

    case: str
    result: str
    detail: str


@dataclass(frozen=True)
class Dumps:
    """One moment in several formats. Files are changed in place: not for two campaigns at once."""

    elf: Path
    others: tuple[Path, ...]
    vmlinux: Path


def campaign(dumps: Dumps, cases: int, seed: int) -> list[Outcome]:
    """The outcome of ``cases`` damaged dumps, and of each format cut at ``CUTS_PERCENT``.

    A process that ends before all is done is replaced by another that goes on behind its case.
    Raises LabError if one does not come to its first case.
    """
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    total = cases + len(CUTS_PERCENT) * (1 + len(dumps.others))
    while len(outcomes) < total:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(dumps, cases, seed, len(outcomes), theirs))
        child.start()
        theirs.close()
        outcomes += _outcomes(ours, child)
    return outcomes


def _outcomes(results: Connection, child: Any) -> Iterable[Outcome]:
    """What the child reports until it ends; if it did not end by itself, a failure on top."""
    case, found = "", []
    with contextlib.suppress(EOFError):
        while results.poll(CASE_SECONDS):
            message = results.recv()
            if isinstance(message, Outcome):
                found.append(message)
            else:
                case = message
        child.kill()
        child.join()
        return [*found, Outcome(case, "failed", f"not done after {CASE_SECONDS:.0f} s")]
    child.join()
    if child.exitcode and not case:
        raise LabError("the undamaged dump could not be read")
    if child.exitcode:
        found.append(Outcome(case, "failed", f"the process ended with {child.exitcode}"))
    return found


def _child(dumps: Dumps, cases: int, seed: int, done: int, results: Connection) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # no workers: one process to kill
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    judge = Judge(dumps)
    files = (dumps.elf, *dumps.others)
    cuts = [(file, percent) for file in files for percent in CUTS_PERCENT]
    for file, percent in cuts[done:]:
        judge.cut(file, percent, results)
    for number in range(max(0, done - len(cuts)), cases):
        judge.damaged(random.Random(seed * 1_000_003 + number), results)


class Judge:
    """Runs damaged dumps and compares with the undamaged one."""

    def __init__(self, dumps: Dumps) -> None:
        self._dumps = dumps
        self._target = open_core(dumps.elf, [dumps.vmlinux])
        self._expected = _numbers(collect(self._target))
        self._places = places(dumps.elf, dumps.vmlinux)
        self._directory = Path(tempfile.mkdtemp(prefix="ksm-damage.", dir=dumps.elf.parent))

    def damaged(self, numbers: random.Random, results: Connection) -> None:
        """Damage one of the files somewhere and see."""
        file, ranges, target = self._dumps.elf, self._places, None
        if numbers.randrange(REOPENED_ONE_IN):
            what = numbers.choice([name for name in ranges if name != "headers"])
            target = None if what.startswith(CARRIED) else self._target
        else:
            file = numbers.choice((file, *self._dumps.others))
            ranges = self._places if file == self._dumps.elf else _parts(file)
            what = "headers" if file == self._dumps.elf else numbers.choice(list(ranges))
        change = damage(file, ranges, what, numbers)
        case = f"{file.name}: {change.text}"
        results.send(case)
        symbols = OWN if what.startswith(CARRIED) else self._dumps.vmlinux
        with applied(file, change):
            results.send(self._run(case, file, target, symbols))

    def cut(self, file: Path, percent: int, results: Connection) -> None:
        """Cut a file and see."""
        case = f"{file.name} cut at {percent} %"
        results.send(case)
        shorter = self._directory / file.name
        cut(file, shorter, percent)
        results.send(self._run(case, shorter, None, self._dumps.vmlinux))
        shorter.unlink()

    def _run(self, case: str, file: Path, target: Target | None, symbols: Path) -> Outcome:
        try:
            snapshot = collect(target or open_core(file, [symbols]))
            write_snapshot(snapshot, self._directory / "case.ksm")
            numbers = _numbers(snapshot)
        except EstimatorError as error:
            return Outcome(case, "refused", str(error))
        except Exception:
            return Outcome(case, "failed", traceback.format_exc())
        finally:
            shutil.rmtree(self._directory / "case.ksm", ignore_errors=True)
        if numbers == self._expected:
            return Outcome(case, "same", "")
        told = _told(snapshot)
        changed = {k: v - self._expected[k] for k, v in numbers.items() if v != self._expected[k]}
        return Outcome(case, "told" if told else "silent", f"{told or changed}")


def _numbers(snapshot: Snapshot) -> dict[str, int]:
    return dict(predict(snapshot, Policy()).counters)


def _told(snapshot: Snapshot) -> list[str]:
    """What the snapshot and its prediction say about what is missing or wrong."""
    told = [f"{n} {what}" for what, n in snapshot.info["unknown"].items() if n]
    told += snapshot.info["source"]["warnings"]
    share = predict(snapshot, Policy()).coverage.hashed_share
    return told if share in (None, 1) else [*told, f"{100 * share:.2f} % hashed"]


def _parts(file: Path) -> Ranges:
    """Of a kdump or flattened file: its head, with all that describes pages, and the rest.

    Of an ELF dump without the note: where VMCOREINFO is found instead.
    """
    size = file.stat().st_size
    if file.name == WITHOUT_NOTE:
        with file.open("rb") as dump, mmap.mmap(dump.fileno(), 0, prot=mmap.PROT_READ) as data:
            pages = [found.start() for found in re.finditer(b"OSRELEASE=", data)]
        return {"VMCOREINFO": [(page, 3072) for page in pages]}
    return {"headers": [(0, 3 * 4096)], "bitmaps": [(3 * 4096, 1 << 20)], "pages": [(0, size - 8)]}


def page(outcomes: Iterable[Outcome], made: str) -> str:
    """The outcomes as Markdown, by what was damaged; ``made``: how, by which command."""
    counts: dict[str, Counter[str]] = {}
    silent = []
    for outcome in outcomes:
        where = outcome.case.partition(",")[0]
        if " cut at " in where:
            where = where.partition(" cut at ")[0] + ": cut off"
        counts.setdefault(where, Counter())[outcome.result] += 1
        if outcome.result not in GOOD:
            silent.append(f"- {outcome.result}: {outcome.case}: {outcome.detail.splitlines()[-1]}")
    results = (*GOOD, "silent", "failed")
    rows = [
        f"| {where} | {' | '.join(str(found[result]) for result in results)} |"
        for where, found in sorted(counts.items())
    ]
    total: Counter[str] = sum(counts.values(), Counter())
    rows.append(f"| **all** | {' | '.join(str(total[result]) for result in results)} |")
    return "\n".join([_INTRODUCTION.format(made=made), *rows, "", *silent]).rstrip() + "\n"


_INTRODUCTION = """\
# Damaged dumps

Written by {made}. One to six words of a dump are changed where the program reads, or the file is
cut off, and the prediction is compared with that of the whole dump. *same*: the same numbers.
*told*: other numbers, and the snapshot says what is missing or wrong. *refused*: one line and an
exit code. *silent*: other numbers without a word: things that the kernel says only once, such as
the flags of a VMA. *failed*: a crash, a hang, too much memory.

| what | same | told | refused | silent | failed |
| --- | ---: | ---: | ---: | ---: | ---: |"""


def main() -> None:
    """Run the command."""
    from tests.lab.dumps import dump_from_qemu
    from tests.lab.makedumpfile import makedumpfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--series", choices=SERIES, default=SERIES[0])
    parser.add_argument("--out", type=Path, help="write a page here, as docs/damage.md")
    parser.add_argument("--commit", required=True, help="what is damaged, for the page")
    arguments = parser.parse_args()
    ensure_tools()
    kernel = fetch_kernel(arguments.series)
    with tempfile.TemporaryDirectory(prefix="ksm-campaign.") as temporary:
        directory = Path(temporary)
        dump_from_qemu(kernel, directory)
        makedumpfile("-l -d 1", directory / "elf-for-makedumpfile", directory / "lzo")
        others = (
            directory / "lzo",
            directory / "kdump-zlib",
            without_note(directory / "elf", directory / WITHOUT_NOTE),
        )
        dumps = Dumps(directory / "elf", others, kernel.vmlinux)
        outcomes = campaign(dumps, arguments.cases, arguments.seed)
    for outcome in outcomes:
        if outcome.result not in GOOD:
            print(f"{outcome.result}: {outcome.case}: {outcome.detail}")
    results = Counter(outcome.result for outcome in outcomes)
    if arguments.out:
        made = (
            f"`./scripts/damage --cases {arguments.cases} --seed {arguments.seed} --series "
            f"{arguments.series}`, {kernel.release}, at commit {arguments.commit}"
        )
        arguments.out.write_text(page(outcomes, made))
    say(f"{dict(results)}")
    sys.exit(bool(results["failed"]))


if __name__ == "__main__":
    main()

"""The page of predictions and truths, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.lab.compare import COUNTERS
from tests.lab.verdict import Verdict

INTRODUCTION = """\
# Prediction and truth

Written by `./scripts/proof`, not by hand. Each row is one workload on one real kernel: a guest sets
up the memory and freezes it, its RAM is dumped, the prediction is made from the dump alone, then
ksmd runs in the guest until its counters stay the same. A cell is *predicted / ksmd*; "–" is a
counter which that kernel does not have. Beside these, ksm_rmap_items, ksm_merging_pages and
ksm_zero_pages of every process of the guest (*processes*) and the `KSM:` line in smaps of every VMA
(*VMAs*, kernels from 6.7) are compared. *Difference* is the sum over all of them. What the
workloads do is in `tests/lab/workloads/`.
"""

KERNELS_BEGIN, KERNELS_END = "<!-- proof: kernels -->", "<!-- end -->"
KERNELS_ARM64_BEGIN = "<!-- proof: kernels of arm64 -->"

SAVINGS = """\
### Memory given back

Frames that the prediction says become free, what KSM allocates for itself, and how many pages more
the guest had when ksmd was at rest: free, in inodes and dentries that it can drop, or in slabs
without an object. The guest's number includes whatever its other processes did in between.

"""


def page(
    subjects: Iterable[tuple[str, Sequence[Verdict]]], failures: Sequence[str], commit: str
) -> str:
    """The page about ``subjects``, made at ``commit``; failures, if there are any, come first."""
    subjects = list(subjects)
    verdicts = [verdict for _, found in subjects for verdict in found]
    releases = dict.fromkeys(verdict.truth.release for verdict in verdicts)
    numbers = sum(verdict.compared for verdict in verdicts)
    parts = [
        INTRODUCTION,
        f"Kernels: {', '.join(releases)}. {len(verdicts)} runs, {numbers:,} numbers compared, "
        f"{sum(len(verdict.differences) for verdict in verdicts)} of them differ. "
        f"At commit {commit}.\n",
    ]
    if failures:
        parts.append("**Failed:**\n\n" + "\n".join(f"- {text}" for text in failures) + "\n")
    for title, found in subjects:
        parts.append(f"## {title.rstrip('.')}\n\n{_table(found)}")
        notes = [
            f"- {verdict.workload.name}, {_short(verdict)}: {note}."
            for verdict in found
            for note in verdict.notes
        ]
        if notes:
            parts.append("\n".join(notes) + "\n")
        large = [verdict for verdict in found if verdict.workload.name.startswith("saving-")]
        if large:
            parts.append(SAVINGS + _savings(large))
    return "\n".join(parts)


def kernels(subjects: Iterable[tuple[str, Sequence[Verdict]]]) -> str:
    """What was proven on each kernel, as a table."""
    of_release: dict[str, list[Verdict]] = {}
    for verdict in (verdict for _, found in subjects for verdict in found):
        of_release.setdefault(verdict.truth.release, []).append(verdict)
    rows = [
        [
            release,
            str(len({verdict.workload.name for verdict in found})),
            f"{sum(verdict.compared for verdict in found):,}",
            str(sum(len(verdict.differences) for verdict in found)),
        ]
        for release, found in of_release.items()
    ]
    return markdown(["kernel", "workloads", "numbers compared", "of them differ"], rows, text=1)


def put_into(document: str, table: str, begin: str = KERNELS_BEGIN) -> str:
    """``document`` with ``table`` between the lines that mark its place, from ``begin`` on."""
    before, _, rest = document.partition(begin)
    _, _, after = rest.partition(KERNELS_END)
    return f"{before}{begin}\n{table}{KERNELS_END}{after}"


def _table(verdicts: Sequence[Verdict]) -> str:
    names = [name.replace("pages_", "", 1).replace("stable_node_", "", 1) for name in COUNTERS]
    names = ["workload", "kernel", *names, "processes", "VMAs", "difference"]
    rows = [
        [
            verdict.workload.name,
            _short(verdict),
            *(_cell(verdict, name) for name in COUNTERS),
            str(len(verdict.truth.after.processes)),
            str(len(verdict.vmas) or "–"),
            str(verdict.difference),
        ]
        for verdict in verdicts
    ]
    return markdown(names, rows)


def _savings(verdicts: Sequence[Verdict]) -> str:
    names = ["workload", "kernel", "pages_sharing", "frames freed", "KSM's own", "net", "guest"]
    rows = []
    for verdict in verdicts:
        physical = verdict.prediction.physical
        net, given_back = verdict.net_pages
        numbers = (
            verdict.prediction.counters["pages_sharing"],
            physical["frames_freed"],
            physical["overhead_bytes"] // verdict.page_bytes,
            net,
            given_back,
        )
        rows.append([verdict.workload.name, _short(verdict), *(f"{n:,}" for n in numbers)])
    return markdown(names, rows)


def _cell(verdict: Verdict, name: str) -> str:
    true = verdict.truth.after.counter(name)
    return f"{verdict.prediction.counters[name]} / {'–' if true is None else true}"


def _short(verdict: Verdict) -> str:
    """The release up to its first two numbers, and unusual pages: the header has all of it."""
    number = ".".join(verdict.truth.release.split(".")[:2])
    size = verdict.page_bytes
    return number if size == 4096 else f"{number}, {size >> 10} KiB"


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]], text: int = 2) -> str:
    lines = [names, ["---"] * text + ["---:"] * (len(names) - text), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

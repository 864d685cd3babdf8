"""Two predictions, or a prediction and the running system, as parts of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from estimator.advice.compare import Comparison
from estimator.advice.verify import Verification
from estimator.report.asked import host_words, moment_words
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column, pages
from estimator.snapshot.identity import Identity
from estimator.units import count, human_bytes, human_seconds, percent, plural, printable


def comparison_sections(comparison: Comparison) -> list[Section]:
    """What changed from A to B, what the two rest on, and which programs did it."""
    numbers = comparison.numbers.set_index("number")
    before, after = (int(numbers[side]["net_bytes_saved"]) for side in ("a", "b"))
    sections = [Section(_headline(before, after)), _origins(comparison)]
    if len(comparison.settings):
        columns = [Column("setting", "setting"), *_SIDES]
        title = "Kernel and settings that differ"
        sections.append(Section(title, comparison.settings, columns, len(comparison.settings)))
    sections += [*_numbers(comparison.numbers), *_changed(comparison)]
    programs = comparison.programs
    moved = [f"{name}_change" for name in ("processes", "ksm_rmap_items", "ksm_merging_pages")]
    changed = (programs[moved] != 0).any(axis=1) | (programs["net_bytes_change"].abs() > 1)
    if changed.any():
        sections.append(_programs(programs, changed, comparison.page_bytes))
    return sections


def _numbers(numbers: pd.DataFrame) -> list[Section]:
    """What is memory with its unit, then what is counted."""
    memory = numbers["unit"] == "bytes"
    sections = []
    for title, rows, value, change in (
        ("What changed: memory", numbers[memory], _bytes, _signed_bytes),
        ("What changed: pages, and stable nodes", numbers[~memory], _number, _signed),
    ):
        columns = [
            Column("", "number"),
            Column("A", "a", value, number=True),
            Column("B", "b", value, number=True),
            Column("change", "change", change, number=True),
        ]
        sections.append(Section(title, rows, columns, limit=len(rows)))
    return sections


def _changed(comparison: Comparison) -> list[Section]:
    title = "Pages that have other contents in B"
    if comparison.contents is None:
        note = (
            "Not known: that takes two snapshots of one boot with the same seed (collect the later "
            "one with --like); a file holds no contents."
        )
        return [Section(title, note=note)]
    contents, rest = comparison.contents.by_vma, comparison.contents.not_compared
    names = ("pages", "compared_pages", "changed_pages")
    sums = {name: int(contents[name].sum()) for name in names}
    note = (
        f"Of {plural(sums['pages'], 'mapping')} in A, {count(sums['compared_pages'])} could be "
        f"compared: at the same place of the same process in B, and read in both. "
        f"{count(sums['changed_pages'])} of them changed."
    )
    columns = [
        Column("comm", "comm"),
        Column("VMA", "label"),
        pages("mappings in A", "pages"),
        pages("compared", "compared_pages"),
        pages("changed", "changed_pages"),
    ]
    rows = contents[contents["changed_pages"] > 0]
    changed = Section(title, note=note)
    if len(rows):
        changed = Section(title, rows, columns, total=sums, note=note)
    if rest.empty:
        return [changed]
    reasons = [Column("", "reason"), pages("mappings", "pages")]
    return [changed, Section("Why the others could not be compared", rest, reasons, len(rest))]


def _programs(programs: pd.DataFrame, changed: pd.Series[bool], page_bytes: int) -> Section:
    def frees(value: float) -> str:
        return _signed_bytes(value * page_bytes)

    columns = [
        Column("comm", "comm"),
        Column("cgroup", "cgroup", wide=True),
        pages("processes A", "processes_a"),
        pages("B", "processes_b"),
        Column("rmap_items", "ksm_rmap_items_change", _signed, number=True),
        Column("merging pages", "ksm_merging_pages_change", _signed, number=True),
        Column("frees", "saved_pages_change", frees, number=True),
        Column("net", "net_bytes_change", _signed_bytes, number=True),
    ]
    numbers = [column.source for column in columns[2:]]
    total = {name: programs[name].sum(skipna=False) for name in numbers}
    return Section("Which programs did it", programs[changed], columns, total=total)


def _headline(before: int, after: int) -> str:
    if after == before:
        return f"B would free as much as A: {human_bytes(after)} net."
    return (
        f"B would free {human_bytes(abs(after - before))} {'more' if after > before else 'less'} "
        f"than A: {human_bytes(after)} net instead of {human_bytes(before)}."
    )


def _origins(comparison: Comparison) -> Section:
    facts = comparison.origins
    known = facts.set_index("fact")
    names = ["boot_id", "machine_id", "host", "release"]
    identities = [Identity(*known.loc[names, side]) for side in "ab"]
    same = identities[0].same_boot(identities[1])
    if same is None:
        note = "Whether A and B are of one boot of one machine is not known."
    elif same:
        note = "A and B are of one boot of one machine."
        ups: list[Any] = [known.loc["uptime_seconds", side] for side in "ab"]
        if all(isinstance(up, int | float) for up in ups) and ups[1] < ups[0]:
            note += " B shows the earlier moment: what changed is told backwards."
    else:
        machines = identities[0].other_machine(identities[1])
        note = f"A and B are of two {'machines' if machines else 'boots'}."
    looks = known.loc["compared_pages"]
    seen = {side: not pd.isna(looks[side]) for side in "ab"}
    if seen["a"] != seen["b"]:
        wiser, other = ("A", "B") if seen["a"] else ("B", "A")
        note += (
            f" {wiser} knows which pages changed and takes them for volatile; {other} does not: "
            "what it says of merged pages are upper bounds."
        )
    shown = pd.DataFrame(
        [
            (words, *(_fact(known.loc[name, side], show) for side in "ab"))
            for name, (words, show) in _FACTS.items()
        ],
        columns=["fact", "a", "b"],
    )
    columns = [Column("", "fact"), Column("A", "a"), Column("B", "b")]
    return Section("What the two rest on", shown, columns, limit=len(shown), note=note)


def _fact(value: Any, show: Callable[[Any], str]) -> str:
    return "not known" if pd.isna(value) else printable(show(value))


_FACTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "host": ("host", lambda name: host_words({"host": name})),
    "boot_id": ("boot-id", str),
    "machine_id": ("machine-id", str),
    "release": ("Linux", str),
    "source": ("read by", lambda kind: f"--{kind}"),
    "collected_at": ("read", moment_words),
    "wall_clock": ("its own clock", moment_words),
    "uptime_seconds": ("up for", human_seconds),
    "passes": ("looks", count),
    "candidate_pages": ("pages ksmd would visit", count),
    "hashed_share": ("of these read", lambda share: percent(share, 1)),
    "compared_pages": ("seen in another look", count),
    "changed_pages": ("of these changed", count),
}


def _value(value: Any) -> str:
    """One setting; an empty selector selects all."""
    if isinstance(value, list):
        return printable(", ".join(map(str, value))) or "all"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return count(value)
    return "not known" if pd.isna(value) else printable(str(value))


_SIDES = [Column("A", "a", _value), Column("B", "b", _value)]


def verification_sections(verification: Verification) -> list[Section]:
    """Predicted and real counters, then the processes that differ."""
    known = verification.counters.dropna()
    same = int((known["difference"] == 0).sum())
    side_by_side = [
        Column("predicted", "predicted", _number, number=True),
        Column("real", "real", _number, number=True),
        Column("difference", "difference", _signed, number=True),
    ]
    rows = verification.processes
    different = rows[rows["difference"] != 0]
    order = different["difference"].abs().sort_values(ascending=False, kind="stable").index
    sections = [
        Section(
            f"As predicted: {same} of the {plural(len(known), 'counter')} that this kernel shows."
            if verification.settled
            else "There is nothing to compare with yet.",
            bullets=verification.caveats,
        ),
        Section(
            "Counters of /sys/kernel/mm/ksm",
            verification.counters,
            [Column("counter", "counter"), *side_by_side],
        ),
        Section(
            "Processes that differ in /proc/PID/ksm_stat",
            different.loc[order],
            [
                Column("pid", "pid", str, number=True),
                Column("comm", "comm"),
                Column("", "counter"),
                *side_by_side,
            ],
            note=f"{plural(len(rows) - len(different), 'number')} of {count(len(rows))} are as "
            f"predicted; {plural(verification.gone, 'process')} of the snapshot no longer run.",
        ),
    ]
    if verification.page_cost:
        cost = verification.page_cost
        words = f"{cost.seconds * 1e6:.3g} µs of CPU; {cost.source}."
        sections.append(Section("Cost of a page", note=words))
    return sections


def _signed(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:+,}" if value else "0"


def _bytes(value: Any) -> str:
    return "-" if pd.isna(value) else human_bytes(value)


def _signed_bytes(value: Any) -> str:
    if pd.isna(value) or value <= 0:
        return _bytes(value)
    text = human_bytes(value)
    return text.replace("< ", "< +") if text.startswith("<") else f"+{text}"


def _number(value: Any) -> str:
    return "-" if pd.isna(value) else count(value)

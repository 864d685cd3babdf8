"""The plan, its settings and its risk as text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from estimator.advice import savings as _savings
from estimator.advice.plan import Plan
from estimator.advice.risk import Risk
from estimator.advice.settings import ADVISOR_MIN_CPU, AdvisorSettings, ScanTime, Schedule
from estimator.advice.sharing import page_bytes, scanned_pages, unit_of
from estimator.report import words
from estimator.report.commands import opt_in_commands, settings_commands
from estimator.report.layout import Column, bullets, heading, memory, pages, prose, table
from estimator.report.text import vma_name
from estimator.report.units import count, human_bytes, human_seconds, percent, plural, printable
from estimator.snapshot import Snapshot

_FRONTIER_SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def render_plan(
    snapshot: Snapshot, plan: Plan, schedule: Schedule, risk: Risk, console: Console
) -> None:
    """Print what to opt in, how to set ksmd, and what risk comes with it."""
    for sentence in plan_words(snapshot, plan):
        prose(console, sentence, style="bold")
    size = page_bytes(snapshot)
    if len(plan.lines):
        _lines(console, plan, size)
        heading(console, "What to type")
        for number, block in enumerate(opt_in_commands(plan.lines), start=1):
            _verbatim(console, f"# {number}\n{block}")
        _settings(console, schedule)
    _frontier(console, plan, size)
    _risk(console, risk, size)


def plan_words(snapshot: Snapshot, plan: Plan) -> list[str]:
    """The plan in a few sentences: worth it or not, what it brings, what it scans."""
    everything = _savings.savings(snapshot, plan.everything)
    if plan.lines.empty or not everything.worth_it:
        sentences = [words.verdict(plan.everything.policy, everything)]
        if plan.lines.empty:
            return [*sentences, "There is nothing to propose."]
        sentences.append("KSM is not worth it here; the best set there is follows all the same.")
    else:
        sentences = []
    chosen = _savings.savings(snapshot, plan.prediction)
    scanned = scanned_pages(plan.prediction)
    part = percent(scanned, everything.scanned_pages)
    sentences.append(
        f"Opt in the {plural(len(plan.lines), 'line')} below: that frees "
        f"{human_bytes(chosen.net_bytes)} net, where everything opted in would free "
        f"{human_bytes(everything.net_bytes)}, and scans {part} of the pages "
        f"({count(scanned)} of {count(everything.scanned_pages)})."
    )
    if plan.within:
        inside = plan.within_pages * page_bytes(snapshot)
        sentences.append(
            f"Counted for the choice was only sharing inside one {plan.within}: "
            f"{human_bytes(inside)} of it. The kernel does not keep to that: "
            f"it merges everything that is opted in, across every {plan.within}."
        )
    return sentences


def line_words(line: Mapping[Hashable, Any]) -> str:
    """What a line of the plan opts in."""
    unit = printable(unit_of(str(line["cgroup"])))
    if line["means"] == "unit":
        return f"{unit} (MemoryKSM=yes)"
    comm = printable(str(line["comm"]))
    if line["means"] == "program":
        return f"{comm} in {unit} (prctl)"
    return f"{vma_name(str(line['name']))} of {comm} in {unit} (madvise)"


def _lines(console: Console, plan: Plan, size: int) -> None:
    heading(console, "The plan")
    rows = plan.lines.copy()
    rows["what"] = [line_words(row) for row in plan.lines.to_dict("records")]
    rows["number"] = range(1, len(rows) + 1)
    rows["loss_bytes"] = rows["loss_pages"] * size
    columns = [
        Column("", "number", str, number=True),
        Column("opt in", "what"),
        pages("processes", "processes", wide=True),
        memory("scans", "scanned_pages", size),
        memory("frees", "saved_pages", size),
        memory("profit", "profit_bytes"),
        memory("lost without", "loss_bytes"),
        Column("on now", "opted_in", lambda on: "yes" if on else "no"),
    ]
    table(console, rows, columns, limit=len(rows))


def _settings(console: Console, schedule: Schedule) -> None:
    heading(console, "Settings of ksmd")
    bullets(console, settings_words(schedule))
    console.print()
    _verbatim(console, settings_commands(schedule))


def _verbatim(console: Console, block: str) -> None:
    """Lines to copy: indented, never wrapped or cut."""
    for line in block.splitlines():
        console.print(Text(f"    {line}"), soft_wrap=True)


def settings_words(schedule: Schedule) -> list[str]:
    """How long a scan takes now, what reaches the target, and where the cost comes from."""
    target = human_seconds(schedule.target_seconds)
    sentences = [f"As set now: {_scan_words(schedule.first)}."]
    if schedule.fast_enough:
        sentences.append(f"That is faster than the {target} asked for: nothing to change.")
    elif schedule.proposed and schedule.at_rest:
        sentences.append(
            f"For a scan in {target}: {_scan_words(schedule.proposed)}. "
            f"Once merged: {_scan_words(schedule.at_rest)}."
        )
    else:
        sentences.append(
            f"No pages_to_scan reaches {target}: visiting the pages alone takes longer."
        )
    if schedule.advisor:
        sentences.append(_advisor_words(schedule.advisor, schedule.advisor_scans))
    if schedule.advisor_too_eager:
        sentences.append(
            f"The advisor never goes below {ADVISOR_MIN_CPU} % of a CPU, so with so few pages it "
            "scans faster than asked: a fixed pages_to_scan costs less."
        )
    if schedule.cost:
        sentences.append(
            f"A page costs {schedule.cost.seconds * 1e6:.2g} µs of CPU ({schedule.cost.source})."
        )
    else:
        sentences.append(
            "What a page costs ksmd is not known, so the times above are the time asleep alone, a "
            "lower bound. Give it with --page-cost, measured by verify on a running system."
        )
    return sentences


def _advisor_words(advisor: AdvisorSettings, scans: list[ScanTime]) -> str:
    words = "This kernel has the scan-time advisor, which finds pages_to_scan itself"
    if not scans:
        return f"{words}, with at most {advisor.max_cpu} % of a CPU."
    return f"{words}: after {len(scans)} scans, {_scan_words(scans[-1])}."


def _scan_words(scan: ScanTime) -> str:
    share = "" if scan.cpu_share is None else f", {percent(scan.cpu_share, 1)} of a CPU"
    return (
        f"pages_to_scan {count(scan.pages_to_scan)} every {scan.sleep_millisecs} ms visits "
        f"{plural(scan.pages, 'page')} in {human_seconds(scan.seconds)}{share}"
    )


def _frontier(console: Console, plan: Plan, size: int) -> None:
    steps = plan.frontier
    whole = steps["saved_pages"].max() if len(steps) else 0
    if not whole:
        return
    heading(console, "How much scanning buys how much saving")
    places = [
        int((steps["saved_pages"] >= s * whole).to_numpy().argmax()) for s in _FRONTIER_SHARES
    ]
    places = list(dict.fromkeys(places))
    rows = steps.iloc[places].copy()
    rows["pieces"] = [place + 1 for place in places]
    rows["share"] = [percent(saved, whole) for saved in rows["saved_pages"]]
    rows["last"] = [
        f"{printable(comm)} {vma_name(name)}"
        for comm, name in zip(rows["comm"], rows["name"], strict=True)
    ]
    columns = [
        pages("VMA groups", "pieces"),
        memory("scanned", "scanned_pages", size),
        memory("saved", "saved_pages", size),
        Column("of all", "share", number=True),
        Column("last one in", "last"),
    ]
    table(console, rows, columns)


def _risk(console: Console, risk: Risk, size: int) -> None:
    heading(console, "Risk: whoever shares a page can find out that others have it")
    rows = risk.borders.copy()
    total = rows["within_bytes"] + rows["across_bytes"]
    rows["share"] = [percent(a, t) for a, t in zip(rows["across_bytes"], total, strict=True)]
    columns = [
        Column("border", "border"),
        pages("domains", "domains"),
        memory("saved within", "within_bytes"),
        memory("saved across", "across_bytes"),
        Column("across", "share", number=True),
    ]
    table(console, rows, columns)
    if len(risk.pairs):
        console.print()
        columns = [
            Column("border", "border"),
            Column("one", "one"),
            Column("other", "other"),
            memory("in common", "shared_pages", size),
        ]
        table(console, risk.pairs, columns)
    if len(risk.poor_candidates):
        heading(console, "Poor candidates: a write to a merged page costs them a fault")
        columns = [
            Column("pid", "pid", str, number=True),
            Column("comm", "comm"),
            Column("why", "reason"),
            memory("merged", "ksm_merging_pages", size),
        ]
        table(console, risk.poor_candidates, columns)

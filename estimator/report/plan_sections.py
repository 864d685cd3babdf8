"""The plan, its settings and its risk, as parts of a report."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from estimator.advice import verdict as _savings
from estimator.advice.attribution import page_bytes, scanned_pages
from estimator.advice.plan import Plan
from estimator.advice.risk import Risk
from estimator.advice.schedule import ADVISOR_MIN_CPU, AdvisorSettings, ScanTime, Schedule
from estimator.report import words
from estimator.report.commands import opt_in_commands, settings_commands
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column, memory, pages
from estimator.report.units import count, human_bytes, human_seconds, percent, plural, printable
from estimator.snapshot.names import unit_of
from estimator.snapshot.snapshot import Snapshot

_BLOCKS = 200
_FRONTIER_SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def plan_sections(snapshot: Snapshot, plan: Plan, schedule: Schedule, risk: Risk) -> list[Section]:
    """What to opt in, what to type, how to set ksmd, the frontier, the risk."""
    size = page_bytes(snapshot)
    first, *more = plan_words(snapshot, plan)
    sections = [Section(first, note=" ".join(more))]
    if len(plan.lines):
        sections += [
            _lines(plan, size),
            Section(
                "What to type",
                note="MemoryKSM= needs systemd 254." if "unit" in set(plan.lines["means"]) else "",
                commands=_numbered(opt_in_commands(plan.lines)),
            ),
            Section(
                "Settings of ksmd",
                bullets=settings_words(schedule),
                commands=settings_commands(schedule),
            ),
        ]
    if len(plan.frontier) and plan.frontier["saved_pages"].max() > 0:
        sections.append(_frontier(plan, size))
    return sections + risk_sections(risk, size)


def plan_words(snapshot: Snapshot, plan: Plan) -> list[str]:
    """The plan in a few sentences: worth it or not, what it brings, what it scans."""
    everything = _savings.savings(snapshot, plan.everything)
    sentences = []
    if plan.lines.empty or not everything.worth_it:
        sentences = [words.verdict(plan.everything.policy, everything, plan.everything.coverage)]
        if plan.lines.empty:
            return [*sentences, "There is nothing to propose."]
        sentences.append("KSM is not worth it here; the best set there is follows all the same.")
    chosen = _savings.savings(snapshot, plan.prediction)
    scanned = scanned_pages(plan.prediction)
    part = percent(scanned, everything.scanned_pages)
    sentences.append(
        f"Opt in the {plural(len(plan.lines), 'line')} below: that frees "
        f"{human_bytes(chosen.net_bytes)} net, where everything opted in would free "
        f"{human_bytes(everything.net_bytes)} net, and scans {part} of the pages "
        f"({count(scanned)} of {count(everything.scanned_pages)})."
    )
    if plan.within:
        inside = human_bytes(plan.within_pages * page_bytes(snapshot))
        sentences.append(
            f"Only sharing inside one {plan.within} counted for the choice: {inside} of the "
            f"{human_bytes(chosen.freed_bytes)} that become free, before KSM's records. The "
            "kernel does not keep to that: it merges everything that is opted in, across every "
            f"{plan.within}."
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
    return f"{printable(str(line['name']))} of {comm} in {unit} (madvise)"


def _numbered(blocks: list[str]) -> str:
    shown = [f"# {n}\n{block}" for n, block in enumerate(blocks[:_BLOCKS], start=1)]
    if len(blocks) > _BLOCKS:
        shown.append(f"# and {count(len(blocks) - _BLOCKS)} more: advise --json has them all")
    return "\n".join(shown)


def _lines(plan: Plan, size: int) -> Section:
    rows = plan.lines.assign(
        what=[line_words(row) for row in plan.lines.to_dict("records")],
        number=range(1, len(plan.lines) + 1),
        loss_bytes=plan.lines["loss_pages"] * size,
    )
    columns = [
        Column("", "number", str, number=True),
        Column("opt in", "what"),
        pages("processes", "processes", wide=True),
        memory("scans", "scanned_pages", size),
        memory("merges", "merged_pages", size),
        memory("frees", "saved_pages", size),
        memory("net", "profit_bytes"),
        memory("lost without", "loss_bytes"),
        Column("on now", "opted_in", lambda on: "yes" if on else "no"),
    ]
    sums = ("scanned_pages", "merged_pages", "saved_pages", "profit_bytes")
    total = {name: rows[name].sum() for name in sums}
    return Section("The plan", rows, columns, limit=_BLOCKS, total=total)


def settings_words(schedule: Schedule) -> list[str]:
    """How long a scan takes now, what reaches the target, and where the cost comes from."""
    target = human_seconds(schedule.target_seconds)
    everything = human_seconds(schedule.scans * schedule.first.seconds)
    sentences = [
        f"As set now: {_scan_words(schedule.first)}. All has merged after {schedule.scans} such "
        f"scans, some {everything}."
    ]
    if schedule.proposed and schedule.at_rest:
        sentences.append(f"For a scan in {target}: {_scan_words(schedule.proposed)}.")
        if schedule.at_rest.pages != schedule.proposed.pages:
            sentences.append(
                f"Once merged, smart_scan skips most of the rest: {_scan_words(schedule.at_rest)}."
            )
    else:
        sentences.append(
            f"No pages_to_scan reaches {target}: visiting the pages alone takes longer."
        )
    if schedule.advisor:
        sentences.append(_advisor_words(schedule.advisor, schedule.advisor_scans))
    if schedule.advisor_too_eager:
        sentences.append(
            f"The advisor aims at {ADVISOR_MIN_CPU}% of a CPU or more, so with so few pages it "
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
        return f"{words}, with at most {advisor.max_cpu}% of a CPU."
    return f"{words}: after {len(scans)} scans, {_scan_words(scans[-1])}."


def _scan_words(scan: ScanTime) -> str:
    share = "" if scan.cpu_share is None else f", {percent(scan.cpu_share, 1)} of a CPU"
    return (
        f"pages_to_scan {count(scan.pages_to_scan)} every {scan.sleep_millisecs} ms visits "
        f"{plural(scan.pages, 'page')} in {human_seconds(scan.seconds)}{share}"
    )


def _frontier(plan: Plan, size: int) -> Section:
    saved = plan.frontier["saved_pages"].to_numpy()
    whole = saved.max()
    places = list(dict.fromkeys(int((saved >= s * whole).argmax()) for s in _FRONTIER_SHARES))
    rows = plan.frontier.iloc[places]
    rows = rows.assign(
        groups=[place + 1 for place in places],
        share=rows["saved_pages"] / whole,
        last=rows["comm"] + " " + rows["name"],
    )
    columns = [
        pages("VMA groups", "groups"),
        memory("scanned", "scanned_pages", size),
        memory("saved", "saved_pages", size),
        Column("of all", "share", lambda part: percent(part, 1), number=True),
        Column("last one in", "last"),
    ]
    return Section("How much scanning buys how much saving", rows, columns)


def risk_sections(risk: Risk, size: int) -> list[Section]:
    """Borders that sharing crosses, the closest pairs, and who should stay out."""
    total = risk.borders["within_bytes"] + risk.borders["across_bytes"]
    crossing = [
        Column("border", "border"),
        pages("domains", "domains"),
        memory("saved within", "within_bytes"),
        memory("saved across", "across_bytes"),
        Column("across", "share", lambda part: percent(part, 1), number=True),
    ]
    sections = [
        Section(
            "Risk: whoever shares a page can find out that others have it",
            risk.borders.assign(share=(risk.borders["across_bytes"] / total).fillna(0)),
            crossing,
        )
    ]
    if len(risk.pairs):
        columns = [
            Column("border", "border"),
            Column("one", "one"),
            Column("other", "other"),
            memory("in common", "shared_pages", size),
        ]
        sections.append(Section("Risk: who shares most across a border", risk.pairs, columns))
    if len(risk.poor_candidates):
        columns = [
            Column("pid", "pid", str, number=True),
            Column("comm", "comm"),
            Column("why", "reason"),
            memory("merged", "ksm_merging_pages", size),
        ]
        title = "Poor candidates: a write to a merged page costs them a fault"
        sections.append(Section(title, risk.poor_candidates, columns))
    return sections

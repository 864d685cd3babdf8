"""The plan and its settings, as parts of a report."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from estimator.advice.attribution import page_bytes
from estimator.advice.opt_in import MEANS
from estimator.advice.plan import Plan
from estimator.advice.risk import Risk
from estimator.advice.schedule import Schedule
from estimator.report import words
from estimator.report.commands import (
    opt_in_commands,
    settings_commands,
    systemd_note,
    undo_commands,
)
from estimator.report.prediction_sections import Section, doubts
from estimator.report.risk_sections import risk_sections
from estimator.report.settings_words import cpu_words, settings_words
from estimator.report.tables import Column, memory, pages
from estimator.snapshot.names import unit_of
from estimator.snapshot.snapshot import Snapshot
from estimator.units import count, human_bytes, percent, plural, printable

_BLOCKS = 200
_FRONTIER_SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def advice_sections(
    snapshot: Snapshot, plan: Plan, schedule: Schedule, risk: Risk
) -> list[Section]:
    """``plan_sections``, and what to know before trusting them, which a page has in its report."""
    first, *more = plan_sections(snapshot, plan, schedule, risk)
    return [first, *doubts(plan.prediction.warnings, snapshot), *more]


def plan_sections(snapshot: Snapshot, plan: Plan, schedule: Schedule, risk: Risk) -> list[Section]:
    """What to opt in, what to type, how to set ksmd, the frontier, the risk."""
    size = page_bytes(snapshot)
    first, *more = plan_words(snapshot, plan)
    elsewhere = [_elsewhere(plan, size)] if len(plan.elsewhere) else []
    if not _pays(plan):
        return [Section(first, note=" ".join(more)), *elsewhere]
    if len(plan.lines):
        more.append(f"ksmd takes {cpu_words(schedule.proposed)} for it.")
    sections = [Section(first, note=" ".join(more))]
    to_do, on = plan.to_do, plan.lines[plan.lines["opted_in"]]
    if len(to_do):
        sections.append(_lines("What to opt in", to_do, size))
    if len(on):
        sections.append(_lines("On already: nothing to change", on, size))
    sections += elsewhere
    if len(to_do):
        sections.append(
            Section(
                "What to type",
                note=systemd_note(plan),
                commands=_numbered(opt_in_commands(plan)[: len(to_do)]),
            )
        )
    if len(plan.lines):
        sections.append(
            Section(
                "Settings of ksmd",
                bullets=settings_words(schedule) + _ksmtuned_words(plan),
                commands=settings_commands(schedule),
            )
        )
        sections.append(
            Section(
                "How to undo it",
                note="As root. Settings are gone after a boot anyway, opt-ins of services are not; "
                "one by prctl or madvise ends with the process. To unmerge takes memory: see Risk.",
                commands=undo_commands(schedule, plan),
            )
        )
    if len(plan.frontier) and plan.frontier["saved_pages"].iloc[-1] > 0:
        sections.append(_frontier(plan, size))
    return sections + (risk_sections(risk, size) if len(plan.lines) else [])


def plan_words(snapshot: Snapshot, plan: Plan) -> list[str]:
    """The plan in a few sentences: worth it or not, what it brings, what it scans."""
    everything = plan.savings
    sentences = []
    if plan.lines.empty or not everything.worth_it:
        sentences = [words.verdict(plan.everything.policy, everything, plan.everything.coverage)]
        if not _pays(plan):
            return [*sentences, _why_nothing(plan, everything.worth_it)]
        more = "More" if everything.merged_now_bytes else "KSM"
        sentences.append(
            f"{more} is not worth it here; the best set there is follows all the same."
        )
    scanned = plan.scanned_pages
    net, most, lines_net = (
        _or_nothing(one.physical["net_bytes_saved"])
        for one in (plan.prediction, plan.everything, plan.reachable)
    )
    enabled = plan.everything.policy.scope == "enabled"
    chosen = words.chosen_words(plan.everything.policy)
    whole = f"all of {chosen}" if chosen else "all" if enabled else "everything opted in"
    whole += " that is opted in now" if enabled else ""
    part = percent(scanned, everything.scanned_pages)
    number = len(plan.to_do)
    if number:
        with_on = "With what is on already that" if number < len(plan.lines) else "That"
        lines = "line" if number == 1 else f"{count(number)} lines"
        frees = [f"Opt in the {lines} below. {with_on} frees {net} net"]
    else:
        left = (
            "KSM runs, and nothing is left to do"
            if plan.running
            else "what is left to do is echo 1 > /sys/kernel/mm/ksm/run"
        )
        nothing = f"Nothing has to be opted in: {left}."
        if not plan.possible and scanned < everything.scanned_pages:
            by = " or ".join(f"--only {name}" for name, one in MEANS.items() if one in plan.only)
            nothing = f"There is nothing to opt in{f' with {by}' if by else ''}: see other means."
        frees = [f"{nothing} What is on already frees {net} net"]
    if plan.possible > number:
        frees.append(f"all {plural(plan.possible, 'line')} to choose from {lines_net}")
    if number or most != net or not enabled:
        frees.append(f"{whole} {most}")
    sentences.append(
        f"{', '.join(frees)}. ksmd scans {part} of the pages for it ({count(scanned)} of "
        f"{count(everything.scanned_pages)})."
    )
    if not plan.share_reached and plan.possible > number:
        others = plural(plan.possible - number, "line")
        sentences.append(
            f"That is less than the {percent(plan.share, 1)} asked for: each of the other {others} "
            f"would bring {_less(plan.worth_bytes)}, which is not worth doing."
        )
    if plan.within:
        inside = human_bytes(plan.within_pages * page_bytes(snapshot))
        sentences.append(
            f"Only sharing inside one {plan.within} counted for the choice: that alone frees "
            f"{inside}, before KSM's own records. The kernel does not keep to it: it merges "
            f"everything that is opted in, across every {plan.within}."
        )
    return sentences


def _pays(plan: Plan) -> bool:
    """Whether there is something to propose: lines that save, or what is on already."""
    return not plan.lines.empty and (
        plan.to_do.empty or plan.prediction.physical["net_bytes_saved"] > 0
    )


def _why_nothing(plan: Plan, worth_it: bool) -> str:
    if not worth_it:
        return "There is nothing to propose."
    if plan.possible:
        lines = plural(plan.possible, "line")
        less = _less(plan.worth_bytes)
        return f"There is nothing to propose: each of {lines} would bring {less}."
    means = " and ".join(f"--only {name}" for name, one in MEANS.items() if one in plan.only)
    return f"There is nothing to propose{f' with {means}' if means else ''}."


def _or_nothing(net_bytes: int) -> str:
    return human_bytes(net_bytes) if net_bytes > 0 else "nothing"


def _less(worth_bytes: int) -> str:
    return f"less than {human_bytes(worth_bytes)}" if worth_bytes > 1 else "nothing"


def line_words(line: Mapping[Hashable, Any]) -> str:
    """What a line of the plan opts in."""
    unit, comm = printable(unit_of(str(line["cgroup"]))), printable(str(line["comm"]))
    if line["means"] == "unit":
        return f"{unit} (systemd)"
    who = comm if unit == "/" else f"{comm} in {unit}"
    if line["uid"] >= 0:
        who += f", uid {line['uid']}"
    if line["means"] == "vma":
        return f"{printable(str(line['name']))} of {who} (madvise)"
    means = {"program": " (prctl)", "vm": " (virtual machine)"}
    return who + means.get(str(line["means"]), "")


def _numbered(blocks: list[str]) -> str:
    shown = [f"# {n}\n{block}" for n, block in enumerate(blocks[:_BLOCKS], start=1)]
    if len(blocks) > _BLOCKS:
        shown.append(f"# and {count(len(blocks) - _BLOCKS)} more: advise --json has them all")
    return "\n".join(shown)


def _lines(title: str, lines: pd.DataFrame, size: int) -> Section:
    rows = lines.assign(
        what=[line_words(row) for row in lines.to_dict("records")],
        number=range(1, len(lines) + 1),
        loss_bytes=lines["loss_pages"] * size,
    )
    columns = [
        Column("", "number", str, number=True),
        Column("what", "what"),
        pages("processes", "processes", wide=True),
        memory("scans", "scanned_pages", size),
        memory("merges", "merged_pages", size, wide=True),
        memory("frees", "saved_pages", size, wide=True),
        memory("net", "profit_bytes"),
        memory("lost without", "loss_bytes"),
    ]
    sums = ("scanned_pages", "merged_pages", "saved_pages", "profit_bytes")
    total = {name: rows[name].sum() for name in sums}
    return Section(title, rows, columns, limit=_BLOCKS, total=total)


def _elsewhere(plan: Plan, size: int) -> Section:
    """What was not selected and is on all the same."""
    on = plan.elsewhere.assign(means="on", uid=-1)
    rows = on.assign(
        what=[line_words(row) for row in on.to_dict("records")], processes=on["pids"].map(len)
    )
    columns = [
        Column("what", "what"),
        pages("processes", "processes"),
        memory("scans", "scanned_pages", size),
        memory("frees", "saved_pages", size),
    ]
    total = {name: rows[name].sum() for name in ("processes", "scanned_pages", "saved_pages")}
    note = (
        "Not selected, so in no other number here. While KSM runs, ksmd scans this too: each full "
        f"scan has {plural(total['scanned_pages'], 'page')} more, and pages of what is selected "
        "merge with equal ones of it. Leave out the selectors to plan for all of it together."
    )
    return Section("On already elsewhere", rows, columns, limit=15, total=total, note=note)


def _ksmtuned_words(plan: Plan) -> list[str]:
    if not plan.host.ksmtuned:
        return []
    return [
        "ksmtuned runs here and sets run, pages_to_scan and sleep_millisecs itself, by how much "
        "memory is free: set it in /etc/ksmtuned.conf, or stop it first (systemctl disable --now "
        "ksmtuned)."
    ]


def _frontier(plan: Plan, size: int) -> Section:
    saved = plan.frontier["saved_pages"].to_numpy()
    whole = saved[-1]
    places = list(dict.fromkeys(int((saved >= s * whole).argmax()) for s in _FRONTIER_SHARES))
    rows = plan.frontier.iloc[places]
    rows = rows.assign(
        groups=[place + 1 for place in places],
        share=rows["saved_pages"] / whole,
        last=rows["comm"] + " " + rows["name"],
    )
    columns = [
        pages("VMA groups", "groups"),
        memory("scans", "scanned_pages", size),
        memory("frees", "saved_pages", size),
        Column("of all", "share", lambda part: percent(part, 1), number=True),
        Column("last one in", "last"),
    ]
    return Section("How little scanning could do, if each VMA were chosen", rows, columns)

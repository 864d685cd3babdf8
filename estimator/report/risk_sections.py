"""What a plan risks, as parts of a report: side effects, and who can find out about whom."""

from __future__ import annotations

from estimator.advice.risk import Risk
from estimator.advice.side_effects import SideEffects
from estimator.report.prediction_sections import Section
from estimator.report.tables import Column, memory, pages
from estimator.units import count, human_bytes, human_seconds, percent, plural

_SIDE_CHANNELS = (
    "Known attacks: the time that a write takes tells that somebody else has the page and so, one "
    "guess after the other, what is in it: which programs and files others use (Suzaki 2011), "
    "where their code lies (CAIN 2015). With Rowhammer bits flip in a page that others share (Flip "
    "Feng Shui 2016). What is saved within a domain tells nothing to another one."
)


def risk_sections(risk: Risk, size: int) -> list[Section]:
    """Side effects, borders that sharing crosses, the closest pairs, and who should stay out."""
    total = risk.borders["within_bytes"] + risk.borders["across_bytes"]
    crossing = [
        Column("border", "border"),
        pages("domains", "domains"),
        memory("saved within", "within_bytes"),
        memory("saved across", "across_bytes"),
        Column("across", "share", lambda part: percent(part, 1), number=True),
    ]
    sections = [
        Section("Risk: what it does besides saving", bullets=side_effect_words(risk.effects)),
        Section(
            "Risk: whoever shares a page can find out that others have it",
            risk.borders.assign(share=(risk.borders["across_bytes"] / total).fillna(0)),
            crossing,
            note=_SIDE_CHANNELS,
        ),
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
        title = "Poor candidates: who waits for the fault that a write costs, or can't merge"
        sections.append(Section(title, risk.poor_candidates, columns))
    return sections


def side_effect_words(effects: SideEffects) -> list[str]:
    """Huge pages that go, faults of pages that are written, and what undoing it takes."""
    return [
        _huge_pages(effects),
        _faults(effects),
        _unmerge(effects),
    ]


def _huge_pages(effects: SideEffects) -> str:
    if not effects.split_bytes:
        return "No huge page is split."
    smaller = effects.split_bytes - effects.split_huge_pages * (2 << 20)
    words = (
        f"{count(effects.split_huge_pages)} of {plural(effects.huge_pages, 'huge page')} that ksmd "
        "scans would be split, and what they gain in the TLB is lost"
    )
    if smaller > 0:
        words += f"; of smaller large folios, {human_bytes(smaller)}"
    return f"{words}. khugepaged may collapse some of them again, which undoes their merging."


def _faults(effects: SideEffects) -> str:
    each = "A write to a merged page costs a fault and a copy of the page."
    if effects.compared_pages is None or effects.changed_pages is None:
        return (
            f"{each} How many of these pages are written is not known from one look: collect with "
            "--passes 2."
        )
    seconds = effects.interval_seconds
    after = "" if seconds is None else f" after {human_seconds(seconds)}"
    part = percent(effects.changed_pages, effects.compared_pages)
    return (
        f"{each} Of {plural(effects.compared_pages, 'page')} that were looked at again{after}, "
        f"{count(effects.changed_pages)} had changed ({part}): ksmd leaves those alone while they "
        "do. Those that are written later, and seldom, cost such a fault each time."
    )


def _unmerge(effects: SideEffects) -> str:
    words = (
        f"To undo it (echo 2 > /sys/kernel/mm/ksm/run) takes {human_bytes(effects.unmerge_bytes)} "
        "of free memory at once"
    )
    more = effects.unmerge_bytes - effects.freed_bytes
    if more > 0:
        words += (
            f", {human_bytes(more)} more than the merge frees: what shared a frame before, by fork "
            "or because it stays mapped elsewhere, gets pages of its own as well"
        )
    return (
        f"{words}. As much has to be free or swappable for the day on which all merged pages are "
        "written at once. echo 0 stops ksmd and leaves merged what is."
    )

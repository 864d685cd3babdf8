"""Why so much and no more, and policies side by side, as parts of a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pandas as pd

from estimator.advice.alike import Alike
from estimator.advice.whatif import WhatIf
from estimator.advice.why import Why
from estimator.ksm import losses as reasons
from estimator.ksm.candidates import NOT_MERGEABLE, NOT_ON_LIST
from estimator.ksm.losses import Losses
from estimator.report.alike_sections import alike_sections
from estimator.report.as_json import answer_json, records
from estimator.report.prediction_sections import WARNINGS, Section, coverage_section
from estimator.report.tables import Column, memory, pages
from estimator.report.words import chosen_words, scope_words
from estimator.units import count, human_bytes, percent, printable

_WORTH_A_WORD = 0.01
_NOT_OPTED_IN = "not opted in"
_PLAIN_WORDS = dict.fromkeys((NOT_MERGEABLE, NOT_ON_LIST), _NOT_OPTED_IN)
_CHANGED_BY = {
    _NOT_OPTED_IN: "opt in: advise says what, and how",
    reasons.NOT_CHOSEN: "choose that process too",
    reasons.KSM_PAGE: "a higher max_page_sharing",
    reasons.ZERO: "use_zero_pages",
    reasons.ELSEWHERE: "opt in who shares it by fork",
    reasons.PINNED: "whatever holds it (VFIO, io_uring, RDMA)",
    reasons.CHANGES: "none: a page that changes never merges",
}


def why_sections(why: Why) -> list[Section]:
    """From all anonymous frames down to those that become free."""
    lost, size = why.losses, why.prediction.kernel["page_size"]
    warnings = why.prediction.warnings
    return [
        Section(_headline(why)),
        *([Section(WARNINGS, bullets=warnings)] if warnings else []),
        _waterfall(lost, size, in_parts=why.whom is not None),
        coverage_section(why.prediction.coverage, size),
    ]


def what_if_sections(found: WhatIf) -> list[Section]:
    """Policies side by side."""
    size = found.asked.kernel["page_size"]
    rows = found.table
    rows = rows.assign(
        name=rows["name"].where(rows["settable"], rows["name"] + " *"),
        lost_to=rows["lost_to"].replace(_PLAIN_WORDS),
    )
    columns = [
        Column("policy", "name"),
        Column("set by", "setting", wide=True),
        memory("frees", "bytes_saved"),
        Column("net", "net_bytes_saved", _maybe_bytes, number=True),
        Column("general_profit", "general_profit", _maybe_bytes, number=True, wide=True),
        Column("rmap_items", "ksm_rmap_items", _maybe_count, number=True, wide=True),
        Column("scanned", "scanned_pages", _scanned(size), number=True),
        Column("less than ideal", "lost_bytes", _maybe_bytes, number=True),
        Column("most of it", "lost_to", wide=True),
    ]
    ideal = human_bytes(found.losses.ideal * size)
    saved = human_bytes(found.asked.physical["bytes_saved"])
    return [
        Section(
            f"Of {ideal} that would be free if every equal page were merged, ksmd as asked frees "
            f"{saved}."
        ),
        Section(
            "Policies side by side",
            rows,
            columns,
            limit=len(rows),
            note=_what_lines_mean(found),
        ),
        *alike_sections(found.alike),
        _waterfall(found.losses, size),
        *([Section(WARNINGS, bullets=found.asked.warnings)] if found.asked.warnings else []),
        coverage_section(found.asked.coverage, size),
    ]


def why_json(why: Why) -> dict[str, Any]:
    """A ``Why`` as JSON values."""
    return answer_json(why.prediction) | {
        "whom": None if why.whom is None else why.whom.to_json(),
        "vma": why.vma,
        "frames": losses_json(why.losses),
    }


def what_if_json(found: WhatIf) -> dict[str, Any]:
    """A ``WhatIf`` as JSON values."""
    return answer_json(found.asked) | {
        "policies": records(found.table),
        **alike_json(found.alike),
        "frames": losses_json(found.losses),
    }


def alike_json(found: Alike) -> dict[str, Any]:
    """An ``Alike`` as JSON values."""
    preload = found.preload
    return {
        "copies": {f"{name}_bytes": n for name, n in dataclasses.asdict(found.copies).items()},
        "page_sizes": records(found.page_sizes),
        "nearly_equal": None if found.near is None else records(found.near),
        "preload": {
            "bytes_saved": preload.bytes_saved,
            "merged_bytes": preload.merged_bytes,
            "unknown_processes": preload.unknown_processes,
            "groups": records(preload.groups),
        },
    }


def losses_json(lost: Losses) -> dict[str, Any]:
    """Frames, from all down to those that become free."""
    names = ("anonymous", "not_known", "single", "kept", "equal", "split_pieces", "copied", "freed")
    return {name: round(float(getattr(lost, name)), 3) for name in names} | {
        "lost": records(lost.lost)
    }


def _headline(why: Why) -> str:
    lost, size = why.losses, why.prediction.kernel["page_size"]
    asked = scope_words(why.prediction.policy)
    if not lost.anonymous:
        return f"{_whose(why)} has no anonymous memory."
    text = (
        f"{asked}, {human_bytes(lost.freed * size)} of {human_bytes(lost.anonymous * size)} of "
        f"{_whose(why)} become free: {percent(lost.freed, lost.anonymous)}."
    )
    if not lost.equal:
        return f"{text} No page equals another one."
    reasons = _said(lost)
    if len(reasons) and reasons["frames"].iloc[0] > _WORTH_A_WORD * lost.equal:
        most = reasons.iloc[0]
        text += (
            f" Equal pages that stay, most of all: {human_bytes(float(most['frames']) * size)}, "
            f"{printable(str(most['reason']))}."
        )
    return text


def _said(lost: Losses) -> pd.DataFrame:
    """The reasons in words that need no source of the kernel, most first."""
    table = lost.lost.assign(reason=lost.lost["reason"].replace(_PLAIN_WORDS))
    table = table.groupby("reason", as_index=False, sort=False).sum()
    return table.sort_values("frames", ascending=False, kind="stable", ignore_index=True)


def _whose(why: Why) -> str:
    """Whose memory it is about, as the asked selectors say it."""
    if why.vma is not None:
        return f"the VMA at {why.vma:#x}"
    if why.whom is None:
        return "anonymous memory"
    who = chosen_words(why.whom)
    return f"the anonymous memory of {who}"


def _what_lines_mean(found: WhatIf) -> str:
    text = "* No kernel can be set to that: a thought, by the same model."
    if found.table["name"].str.startswith("as if ").any():
        text += (
            " As if: a frame of shared memory, of hugetlb or of a file is taken for one anonymous "
            "page that its processes share by fork, a piece of a huge page for a page of its own."
        )
    if found.merged_now:
        text += (
            " What is freed is against the memory as it is now, in which KSM has merged already: a "
            "line below 0 saves less than KSM does now. To change max_page_sharing the kernel asks "
            "for all to be unmerged first (echo 2 > /sys/kernel/mm/ksm/run)."
        )
    return text


def _waterfall(lost: Losses, size: int, *, in_parts: bool = False) -> Section:
    rows: list[tuple[str, float, str]] = [
        ("anonymous memory", lost.anonymous, ""),
        ("- content not known", -lost.not_known, ""),
        ("- no other page is equal", -lost.single, ""),
        ("- one page of each content stays", -lost.kept, ""),
        ("= every equal page merged", lost.equal, ""),
        *(
            (f"- {row['reason']}", -float(row["frames"]), _CHANGED_BY.get(str(row["reason"]), ""))
            for row in records(_said(lost))
        ),
        ("+ pieces of huge pages that nobody maps, freed by their split", lost.split_pieces, ""),
        ("- copies made by break_cow()", -lost.copied, ""),
    ]
    shown = [row for number, row in enumerate(rows) if row[1] or number in (0, 4)]
    shown.append(("= becomes free", lost.freed, ""))
    table = pd.DataFrame(shown, columns=["step", "frames", "changed_by"])
    columns = [
        Column("", "step"),
        pages("frames", "frames"),
        memory("memory", "frames", size),
        *([Column("changed by", "changed_by")] if any(table["changed_by"]) else []),
    ]
    note = "What several processes share counts in parts." if in_parts else ""
    title = "From all anonymous memory to what becomes free"
    return Section(title, table, columns, len(table), note=note)


def _scanned(size: int) -> Callable[[Any], str]:
    return lambda pages: "" if pd.isna(pages) else human_bytes(pages * size)


def _maybe_bytes(number: Any) -> str:
    return "" if pd.isna(number) else human_bytes(number)


def _maybe_count(number: Any) -> str:
    return "" if pd.isna(number) else count(number)

"""What ksmd does while processes come, as the parts of a report."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.advice.ramp import Ramp
from estimator.report.as_json import answer_json, records
from estimator.report.forecast_sections import scan_columns, scan_rows, settings_json
from estimator.report.prediction_sections import WARNINGS, Section, coverage_section
from estimator.report.settings_words import cost_words
from estimator.report.tables import Column, memory, pages
from estimator.snapshot.flags import SKIPPING_SCANS
from estimator.units import count, human_bytes, human_seconds, percent, plural, words_between

_ROWS = 40


def ramp_sections(ramp: Ramp) -> list[Section]:
    """The whole in a sentence, what is simpler than it is, and a row per full scan."""
    warnings = _warnings(ramp)
    return [
        Section(_headline(ramp), note=_note(ramp)),
        *([Section(WARNINGS, bullets=warnings)] if warnings else []),
        _scans(ramp),
        coverage_section(ramp.at_rest.coverage, ramp.page_bytes),
    ]


def ramp_json(ramp: Ramp) -> dict[str, Any]:
    """A ramp as JSON values; ``scans``: one object per full scan."""
    at_rest = ramp.at_rest
    return answer_json(at_rest) | {
        "settings": settings_json(ramp.pacing, smart_scan=at_rest.smart_scan),
        "cost": asdict(ramp.cost),
        "warnings": _warnings(ramp),
        "arrivals_seconds": ramp.arrivals.tolist(),
        "ended": ramp.ended,
        "large_pages": ramp.large_pages,
        "at_once_bytes": ramp.at_once_bytes,
        "scans": [
            row | {"bounds": {name: sorted((n, row[name])) for name, n in quick.items()}}
            for row, quick in zip(records(ramp.scans), records(ramp.cheap), strict=True)
        ],
        "at_rest": {
            **at_rest.counters,
            "frames_freed": at_rest.physical["frames_freed"],
            "bytes_saved": at_rest.physical["bytes_saved"],
        },
    }


def _headline(ramp: Ramp) -> str:
    last = ramp.scans.iloc[-1]
    came = f"{plural(len(ramp.arrivals), 'process')} come within"
    took = words_between(ramp.range_of("seconds", -1), human_seconds)
    done = "ksmd has merged all that it can" if ramp.ended else "the forecast ends"
    return (
        f"{came} {human_seconds(float(ramp.arrivals[-1]))}. After "
        f"{plural(int(last['full_scans']), 'full scan')}, in {took}, {done}, and "
        f"{human_bytes(int(last['bytes_saved']))} are saved."
    )


def _note(ramp: Ramp) -> str:
    """When the last one came, and how long ksmd needed from then on."""
    seconds, saved = ramp.scans["seconds"].to_numpy(), ramp.scans["bytes_saved"].to_numpy()
    there = int(np.searchsorted(seconds, ramp.arrivals[-1], side="left"))
    if there >= len(seconds):
        return "Not all of them had come by then."
    most = int(saved.max(initial=0))
    before = f"When the last one came, {human_bytes(int(saved[there - 1]) if there else 0)} were"
    told: list[str] = []
    for share in (0.5, 0.9, 0.99):
        reached = np.flatnonzero(saved >= share * most)
        if most and len(reached):
            row = int(reached[0])
            after = words_between(ramp.range_of("seconds", row), human_seconds)
            told.append(f"{percent(share, 1)} {'after' if told else 'of the whole after'} {after}")
    return f"{before} saved; {', '.join(told)}." if told else f"{before} saved."


def _warnings(ramp: Ramp) -> list[str]:
    warnings = list(ramp.at_rest.warnings)
    saved = int(ramp.scans["bytes_saved"].iloc[-1])
    if ramp.at_once_bytes is not None and saved < ramp.at_once_bytes:
        warnings.append(
            f"{human_bytes(ramp.at_once_bytes - saved)} less than if all had come at once: "
            f"smart_scan visits a page that does not merge in one scan of {SKIPPING_SCANS}, and "
            "pages that came at different times in different scans, so that equal ones may never "
            "meet in the unstable tree. With smart_scan 0 for two full scans they do."
        )
    if ramp.starts_over:
        warnings.append("KSM has merged pages here. This starts as if it never had.")
    if ramp.large_pages:
        warnings.append(
            f"{plural(ramp.large_pages, 'page')} are in huge pages. They are taken as split: ksmd "
            "splits one when its first page merges."
        )
    return warnings


def _scans(ramp: Ramp) -> Section:
    scan, *others = scan_columns(ramp)
    columns = [
        scan,
        Column("processes", "processes", count, number=True),
        *others,
        pages("rmap_items", "ksm_rmap_items", wide=True),
        memory("saved", "bytes_saved"),
    ]
    return Section(
        "Scan by scan, without those that only repeat the one before",
        scan_rows(ramp)[_tells(ramp)],
        columns,
        limit=_ROWS,
        note=cost_words(ramp.cost),
    )


def _tells(ramp: Ramp) -> npt.NDArray[np.bool_]:
    """Bool per scan: processes had come, something merged, or it is the last one."""
    names = ["processes", "pages_shared", "pages_sharing", "ksm_zero_pages", "ksm_rmap_items"]
    numbers = ramp.scans[names].to_numpy()
    changed = (np.diff(numbers, axis=0, prepend=numbers[:1] - 1) != 0).any(axis=1)
    return changed | (np.arange(len(numbers)) == len(numbers) - 1)

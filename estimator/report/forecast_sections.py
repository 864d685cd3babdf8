"""What ksmd does scan by scan, as the parts of a report."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from estimator.advice.break_ups import break_ups
from estimator.advice.moment import Moment, marks, moment
from estimator.advice.pace import Pace, Pacing, Timed
from estimator.advice.reach import Reach
from estimator.advice.who import Whose, who_merges
from estimator.ksm.accounting import OF_ALL_ITEMS
from estimator.ksm.forecast import Forecast
from estimator.report.as_json import answer_json, records
from estimator.report.prediction_sections import WARNINGS, Section, coverage_section
from estimator.report.settings_words import cost_words
from estimator.report.tables import Column, memory, pages
from estimator.units import count, human_bytes, human_seconds, percent, plural, words_between

_ROWS = 40
_STEPS, _BAR = 12, 20
"""Rows and columns of the bars."""


def forecast_sections(
    forecast: Forecast,
    pace: Pace,
    then: Moment | None = None,
    reach: Reach | None = None,
    by: Whose | None = None,
) -> list[Section]:
    """The whole in a sentence, the way there, and what is not known. ``then``: at its end."""
    warnings = _warnings(forecast, pace)
    return [
        Section(_headline(forecast, pace), note=_marks(forecast, pace)),
        *([Section(WARNINGS, bullets=warnings)] if warnings else []),
        *([_reach(reach)] if reach else []),
        *([_moment(then)] if then else []),
        *over_time(forecast, pace),
        *_break_ups(forecast, pace),
        *([_who(forecast, pace, by)] if by else []),
        _scans(forecast, pace),
        coverage_section(forecast.at_rest.coverage, forecast.page_bytes),
    ]


def forecast_json(
    forecast: Forecast,
    pace: Pace,
    then: Moment | None = None,
    reach: Reach | None = None,
    by: Whose | None = None,
) -> dict[str, Any]:
    """A forecast as JSON values; ``scans``: one object per full scan."""
    at_rest = forecast.at_rest
    return answer_json(at_rest) | {
        "settings": settings_json(pace.pacing, smart_scan=at_rest.smart_scan),
        "cost": asdict(pace.cost),
        "warnings": _warnings(forecast, pace),
        "marks": [asdict(mark) for mark in marks(forecast, pace)],
        "then": asdict(then) if then else None,
        "reach": asdict(reach) if reach else None,
        "break_ups": _break_ups_json(forecast, pace),
        "who": records(who_merges(forecast, by)) if by else None,
        "scans": _scans_json(forecast, pace),
        "at_rest": {
            "full_scans": at_rest.scans,
            **at_rest.counters,
            "frames_freed": at_rest.physical["frames_freed"],
            "bytes_saved": at_rest.physical["bytes_saved"],
        },
    }


def settings_json(pacing: Pacing, *, smart_scan: bool) -> dict[str, Any]:
    """How ksmd is set."""
    return {
        "pages_to_scan": pacing.pages_to_scan,
        "sleep_millisecs": pacing.sleep_millisecs,
        "smart_scan": smart_scan,
        "advisor": asdict(pacing.advisor) if pacing.advisor else None,
    }


def _warnings(forecast: Forecast, pace: Pace) -> list[str]:
    warnings = [*forecast.bounds.reasons, *forecast.at_rest.warnings]
    if pace.pacing.advisor_was_on:
        warnings.append(
            "The advisor is on already. What it remembers of earlier scans is not in the snapshot: "
            "it is taken to start afresh from the pages_to_scan that it had set."
        )
    return warnings


def _scans_json(forecast: Forecast, pace: Pace) -> list[dict[str, Any]]:
    """``bounds``: least and most of those numbers of the scan that are not exact."""
    tables = (forecast.bounds.least, forecast.bounds.most, pace.scans, pace.cheap)
    least, most, scans, cheap = (records(table) for table in tables)
    return [
        row
        | {
            "bounds": {name: [low[name], high[name]] for name in low if low[name] != high[name]}
            | {name: sorted([n, row[name]]) for name, n in quick.items() if n != row[name]}
        }
        for row, low, high, quick in zip(scans, least, most, cheap, strict=True)
    ]


def _headline(forecast: Forecast, pace: Pace) -> str:
    at_rest = forecast.at_rest
    saved = human_bytes(at_rest.physical["bytes_saved"])
    done = f"ksmd would have merged all that it can after {plural(at_rest.scans, 'full scan')}"
    if len(pace.scans) < at_rest.scans:
        return f"{done}, and then saves {saved}."
    return f"{done}, in {_between(pace, 'seconds', at_rest.scans - 1)}, and then saves {saved}."


def _between(pace: Timed, name: str, row: int) -> str:
    """Seconds in words, from the least to the most that a page may cost."""
    return words_between(pace.range_of(name, row), human_seconds)


def _marks(forecast: Forecast, pace: Pace) -> str:
    told = [
        f"{percent(mark.share, 1)} of that in scan {count(mark.full_scan)}, after "
        f"{words_between(mark.seconds, human_seconds)}"
        for mark in marks(forecast, pace)
    ]
    pacing = pace.pacing
    settings = [f"pages_to_scan {count(pacing.pages_to_scan)}"]
    if pacing.advisor:
        settings = [
            f"the scan-time advisor from pages_to_scan {count(pacing.pages_to_scan)} on",
            *(f"advisor_{name} {count(value)}" for name, value in asdict(pacing.advisor).items()),
        ]
    settings += [
        f"sleep_millisecs {pacing.sleep_millisecs}",
        f"smart_scan {'on' if forecast.at_rest.smart_scan else 'off'}",
    ]
    words = ", ".join(settings)
    return ". ".join([*told, f"{words[:1].upper()}{words[1:]}." if pacing.advisor else f"{words}."])


def _reach(reach: Reach) -> Section:
    wish = reach.wish
    asked = f"{percent(wish.share, 1)} of the saving in {human_seconds(wish.seconds)}"
    limit = f"{percent(wish.cpu_share, 1)} of a CPU"
    by_then = (
        f"it is there after {plural(reach.full_scans, 'full scan')}, in "
        f"{human_seconds(reach.seconds)}, for {percent(reach.cpu_share, 1)} of a CPU until then."
    )
    settings = {
        "sleep_millisecs": reach.sleep_millisecs,
        "pages_to_scan": reach.pages_to_scan,
    }
    commands = "\n".join(f"echo {n} > /sys/kernel/mm/ksm/{name}" for name, n in settings.items())
    if reach.possible:
        note = f"For at most {limit}: with these settings, {by_then}"
    elif reach.least_cpu_share > 1:
        note = f"That can't be done: ksmd would need more than a whole CPU. With {limit}, {by_then}"
    elif reach.least_cpu_share > wish.cpu_share:
        note = (
            f"That can't be done for {limit}: it takes {percent(reach.least_cpu_share, 1)}. "
            f"Within that limit, {by_then}"
        )
    else:
        note = f"No batches and pauses fit {limit}. Next to it, {by_then}"
    return Section(f"{asked[:1].upper()}{asked[1:]}", note=note, commands=commands)


def _moment(then: Moment) -> Section:
    saved = words_between(then.counters["bytes_saved"], human_bytes)
    counters = ", ".join(
        f"{name} {words_between(then.counters[name], count)}" for name in OF_ALL_ITEMS
    )
    return Section(
        f"After {human_seconds(then.seconds)}",
        note=f"Full scans done: {words_between(then.full_scans, count)}. "
        f"Pages visited: {words_between(then.scanned_pages, count)}. "
        f"CPU time: {words_between(then.cpu_seconds, human_seconds)}. Saved: {saved}. {counters}.",
    )


def over_time(forecast: Forecast, pace: Pace) -> list[Section]:
    """Memory saved at steps of time, as bars; none where nothing is saved or it takes no time."""
    whole = forecast.at_rest.physical["bytes_saved"]
    until = float(pace.scans["seconds"].iloc[max(pace.marks.values(), default=0)])
    if whole <= 0 or until <= 0 or not pace.marks:
        return []
    steps = np.arange(1, _STEPS + 1) * until / _STEPS
    there = [moment(forecast, pace, s, ["bytes_saved"]) for s in steps.tolist()]
    saved = [found.counters["bytes_saved"] for found in there]
    rows = pd.DataFrame(
        {
            "after": [found.seconds for found in there],
            "scans": [words_between(found.full_scans, count) for found in there],
            "cpu": [words_between(found.cpu_seconds, human_seconds) for found in there],
            "saved": [words_between(ends, human_bytes) for ends in saved],
            "bar": [_bar(low / whole, high / whole) for low, high in saved],
        }
    )
    columns = [
        Column("after", "after", human_seconds, number=True),
        Column("full scans", "scans", number=True, wide=True),
        Column("CPU", "cpu", number=True, wide=True),
        Column("saved", "saved", number=True),
        Column("share of it", "bar", str),
    ]
    return [Section("Saved over time", rows, columns, limit=len(rows))]


def _break_ups(forecast: Forecast, pace: Pace) -> list[Section]:
    found = break_ups(forecast.at_rest)
    if found is None or not found.written_pages:
        return []
    missing = [
        found.missing_pages(seconds) * forecast.page_bytes for seconds in _last_scan_seconds(pace)
    ]
    note = (
        f"Of {plural(found.merged_pages, 'page')} that merge, {count(found.written_pages)} were "
        f"written in the {human_seconds(found.seconds)} before the last two looks: at least "
        f"{found.per_second:,.1f} in a second. Each takes its program a fault and a copy, and ksmd "
        f"a search and a merge, {found.scans_until_back:g} full scans later on the average. So "
        f"{words_between((missing[0], missing[1]), human_bytes)} of the saving is missing at any "
        "time."
    )
    columns = [
        Column("program", "comm"),
        Column("VMA", "name"),
        pages("merge", "merged_pages"),
        pages("written", "written_pages"),
        Column("in a second", "per_second", lambda rate: f"{rate:,.1f}", number=True),
    ]
    return [Section("Merged pages that are written", found.table, columns, limit=10, note=note)]


def _break_ups_json(forecast: Forecast, pace: Pace) -> dict[str, Any] | None:
    found = break_ups(forecast.at_rest)
    if found is None:
        return None
    missing = [found.missing_pages(seconds) for seconds in _last_scan_seconds(pace)]
    return {
        "seconds": found.seconds,
        "merged_pages": found.merged_pages,
        "written_pages": found.written_pages,
        "written_pages_per_second": found.per_second,
        "scans_until_back": found.scans_until_back,
        "missing_pages": missing,
        "table": records(found.table),
    }


def _last_scan_seconds(pace: Pace) -> tuple[float, float]:
    """How long the last full scan takes, with the sleep after it, at least and at most."""
    ends = [
        float(np.diff(times["seconds"] + times["pause_seconds"], prepend=0)[-1])
        for times in (pace.cheap, pace.scans)
    ]
    return min(ends), max(ends)


def _who(forecast: Forecast, pace: Pace, by: Whose) -> Section:
    """When half of what each merges is merged, and nine tenths."""
    found = who_merges(forecast, by)
    merged = [
        np.add(shared, zeroes)
        for shared, zeroes in zip(found["ksm_merging_pages"], found["ksm_zero_pages"], strict=True)
    ]

    def when(pages: npt.NDArray[np.int64], share: float) -> str:
        scan = int(np.argmax(pages >= share * pages[-1]))
        seconds = words_between(pace.range_of("seconds", scan), human_seconds)
        return f"scan {count(scan + 1)}, {seconds}"

    rows = found[["pid", "comm", "unit"]].assign(
        merge=[int(pages[-1]) for pages in merged],
        half=[when(pages, 0.5) for pages in merged],
        nearly=[when(pages, 0.9) for pages in merged],
    )
    columns = [
        *([Column("pid", "pid", str), Column("program", "comm")] if by == "process" else []),
        Column("service", "unit"),
        pages("merge", "merge"),
        Column("half by the end of", "half"),
        Column("90% by the end of", "nearly"),
    ]
    return Section(f"When whose pages merge, by {by}", rows, columns)


def _bar(least: float, most: float) -> str:
    """Shares of the whole; lighter where it is not certain."""
    sure, perhaps = (round(_BAR * min(max(share, 0), 1)) for share in (least, most))
    return "█" * sure + "░" * (perhaps - sure)


def scan_rows(timed: Timed) -> pd.DataFrame:
    """``timed.scans`` with times in words, and the pages scanned and skipped in each scan alone."""
    rows = timed.scans
    return rows.assign(
        scanned=np.diff(rows["pages_scanned"], prepend=0),
        skipped=np.diff(rows["pages_skipped"], prepend=0),
        **{
            name: [_between(timed, name, row) for row in range(len(rows))]
            for name in ("seconds", "cpu_seconds")
        },
    )


def scan_columns(timed: Timed) -> list[Column]:
    """Of ``scan_rows``: which scan, when and for what, and the four counters of all items."""
    return [
        Column("scan", "full_scans", count, number=True),
        Column("ends after", "seconds", number=True),
        Column("CPU", "cpu_seconds", number=True),
        *([pages("pages_to_scan", "pages_to_scan")] if timed.pacing.advisor else []),
        pages("scanned", "scanned"),
        pages("skipped", "skipped"),
        pages("shared", "pages_shared"),
        pages("sharing", "pages_sharing"),
        pages("unshared", "pages_unshared"),
        pages("volatile", "pages_volatile"),
    ]


def _scans(forecast: Forecast, pace: Pace) -> Section:
    rows = scan_rows(pace)
    least, most = (t["bytes_saved"] for t in (forecast.bounds.least, forecast.bounds.most))
    bounded = bool((least != most).any())
    rows["bounds"] = [
        "" if low == high else f"{human_bytes(low)} to {human_bytes(high)}"
        for low, high in zip(least, most, strict=True)
    ]
    columns = [
        *scan_columns(pace),
        pages("zero pages", "ksm_zero_pages", wide=True),
        pages("rmap_items", "ksm_rmap_items", wide=True),
        memory("saved", "bytes_saved"),
        *([Column("bounds", "bounds")] if bounded else []),
    ]
    return Section("Scan by scan", rows, columns, limit=_ROWS, note=cost_words(pace.cost))

"""What ksmd does scan by scan, as the parts of a report."""

from __future__ import annotations

from typing import Any

from estimator.advice.pace import Pace
from estimator.ksm.forecast import Forecast
from estimator.report.as_json import records
from estimator.report.prediction_sections import WARNINGS, Section, coverage_section
from estimator.report.tables import Column, memory, pages
from estimator.units import count, human_bytes, human_seconds, percent, plural


def forecast_sections(forecast: Forecast, pace: Pace) -> list[Section]:
    """The whole in a sentence, the way there, and what is not known."""
    warnings = [*forecast.bounds.reasons, *forecast.at_rest.warnings]
    return [
        Section(_headline(forecast, pace), note=_marks(forecast, pace)),
        *([Section(WARNINGS, bullets=warnings)] if warnings else []),
        _scans(forecast, pace),
        coverage_section(forecast.at_rest.coverage, forecast.page_bytes),
    ]


def forecast_json(forecast: Forecast, pace: Pace) -> dict[str, Any]:
    """A forecast as JSON values; ``scans``: one object per full scan."""
    at_rest = forecast.at_rest
    return {
        "kernel": at_rest.kernel,
        "origin": at_rest.origin,
        "policy": at_rest.policy.to_json(),
        "settings": {
            "pages_to_scan": pace.pages_to_scan,
            "sleep_millisecs": pace.sleep_millisecs,
            "smart_scan": at_rest.smart_scan,
        },
        "page_cost": {"seconds": pace.cost.seconds, "source": pace.cost.source}
        if pace.cost
        else None,
        "coverage": at_rest.coverage.to_json(),
        "warnings": [*forecast.bounds.reasons, *at_rest.warnings],
        "scans": _scans_json(forecast, pace),
        "at_rest": {
            "full_scans": at_rest.scans,
            **at_rest.counters,
            "frames_freed": at_rest.physical["frames_freed"],
            "bytes_saved": at_rest.physical["bytes_saved"],
        },
    }


def _scans_json(forecast: Forecast, pace: Pace) -> list[dict[str, Any]]:
    """``bounds``: least and most of those numbers of the scan that are not exact."""
    least, most = (records(table) for table in (forecast.bounds.least, forecast.bounds.most))
    return [
        row | {"bounds": {name: [low[name], high[name]] for name in low if low[name] != high[name]}}
        for row, low, high in zip(records(pace.scans), least, most, strict=True)
    ]


def _headline(forecast: Forecast, pace: Pace) -> str:
    at_rest = forecast.at_rest
    saved = human_bytes(at_rest.physical["bytes_saved"])
    done = f"ksmd has merged all that it can after {plural(at_rest.scans, 'full scan')}"
    if len(pace.scans) < at_rest.scans:
        return f"{done}, and then saves {saved}."
    time = human_seconds(pace.scans["seconds"].iloc[at_rest.scans - 1])
    return f"{done}, in {time}{' or more' if pace.cost is None else ''}, and then saves {saved}."


def _marks(forecast: Forecast, pace: Pace) -> str:
    marks = [
        f"{percent(share, 1)} of that after scan {count(pace.scans['full_scans'].iloc[row])}, "
        f"{human_seconds(pace.scans['seconds'].iloc[row])}"
        for share, row in pace.marks.items()
    ]
    settings = (
        f"pages_to_scan {count(pace.pages_to_scan)}, sleep_millisecs {pace.sleep_millisecs}, "
        f"smart_scan {'on' if forecast.at_rest.smart_scan else 'off'}."
    )
    return ". ".join([*marks, settings])


def _scans(forecast: Forecast, pace: Pace) -> Section:
    rows = pace.scans
    rows = rows.assign(
        **{
            name: rows[f"pages_{name}"].diff().fillna(rows[f"pages_{name}"])
            for name in ("scanned", "skipped")
        }
    )
    least, most = (t["bytes_saved"] for t in (forecast.bounds.least, forecast.bounds.most))
    bounded = bool((least != most).any())
    rows["bounds"] = [
        "" if low == high else f"{human_bytes(low)} to {human_bytes(high)}"
        for low, high in zip(least, most, strict=True)
    ]
    columns = [
        Column("scan", "full_scans", count, number=True),
        Column("ends after", "seconds", human_seconds, number=True),
        *([Column("CPU", "cpu_seconds", human_seconds, number=True)] if pace.cost else []),
        pages("scanned", "scanned"),
        pages("skipped", "skipped"),
        pages("shared", "pages_shared"),
        pages("sharing", "pages_sharing"),
        pages("unshared", "pages_unshared"),
        pages("volatile", "pages_volatile"),
        pages("zero pages", "ksm_zero_pages", wide=True),
        pages("rmap_items", "ksm_rmap_items", wide=True),
        memory("saved", "bytes_saved"),
        *([Column("bounds", "bounds")] if bounded else []),
    ]
    if pace.cost:
        note = f"A page costs {pace.cost.seconds * 1e6:.2g} µs of CPU ({pace.cost.source})."
    else:
        note = (
            "What a page costs ksmd is not known, so the times are the time asleep alone, a lower "
            "bound. Give it with --page-cost, measured by verify on a running system."
        )
    return Section("Scan by scan", rows, columns, limit=len(rows), note=note)

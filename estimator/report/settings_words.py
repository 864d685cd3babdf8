"""How ksmd is to be set, and what it costs, in sentences."""

from __future__ import annotations

from dataclasses import asdict

from estimator.advice.advisor import ADVISOR_MIN_CPU
from estimator.advice.moment import marks
from estimator.advice.pace import Pace
from estimator.advice.page_cost import CostRange
from estimator.advice.schedule import ScanRange, Schedule
from estimator.ksm.forecast import Forecast
from estimator.units import count, human_seconds, percent, plural, words_between


def settings_words(schedule: Schedule) -> list[str]:
    """What a page costs, how long a scan takes now, what reaches the target, what may delay it."""
    target = human_seconds(schedule.target_seconds)
    found = schedule.forecast
    sentences = [
        cost_words(schedule.cost),
        f"As set now: {scan_words(schedule.first)}. {course_words(found, schedule.as_set)}",
    ]
    proposed = f"{scan_words(schedule.proposed)}. {course_words(found, schedule.as_proposed)}"
    if schedule.reaches_target:
        sentences.append(f"For a scan in {target}: {proposed}")
    else:
        sentences.append(
            f"A scan in {target} would take more of a CPU than advisor_max_cpu, if a page costs "
            f"that much. Within it: {proposed}"
        )
    if schedule.at_rest.most.pages != schedule.proposed.most.pages:
        sentences.append(
            f"Once merged, smart_scan skips most of the rest: {scan_words(schedule.at_rest)}."
        )
    if schedule.advised:
        sentences.append(
            f"The kernel's scan-time advisor finds pages_to_scan itself, but aims at "
            f"{ADVISOR_MIN_CPU}% of a CPU or more. Asked for {target}, it comes to scans of about "
            f"{_seconds(schedule.advised)}, {cpu_words(schedule.advised)}."
        )
    return [*sentences, *found.bounds.reasons]


def course_words(forecast: Forecast, pace: Pace) -> str:
    """When how much of the saving is there, and what CPU time ksmd has taken when all is."""
    told = [
        f"{percent(mark.share, 1)} {'after' if number else 'of the saving after'} "
        f"{words_between(mark.seconds, human_seconds)}"
        for number, mark in enumerate(marks(forecast, pace))
    ]
    scans = forecast.at_rest.scans
    if scans <= len(pace.scans):
        seconds, cpu_seconds = (
            words_between(pace.range_of(name, scans - 1), human_seconds)
            for name in ("seconds", "cpu_seconds")
        )
        told.append(
            f"all has merged after {plural(scans, 'full scan')}, in {seconds} and for "
            f"{cpu_seconds} of CPU time"
        )
    else:
        told.append(f"all has merged after {plural(scans, 'full scan')}")
    words = ", ".join(told)
    return f"{words[:1].upper()}{words[1:]}."


def cost_words(cost: CostRange) -> str:
    """What a page costs, and who says so."""
    if cost.most.terms is not None:
        steps = asdict(cost.most.terms).items()
        terms = ", ".join(
            f"{name.removesuffix('_seconds')} {1e6 * seconds:,.5g} µs"
            for name, seconds in steps
            if seconds is not None
        )
        return f"What a page costs is different in each scan: {terms} ({cost.most.source})."
    if cost.least == cost.most:
        return f"A page costs {_micro(cost.most.seconds)} µs of CPU ({cost.most.source})."
    return (
        f"What a page costs here is not known: taken for {_micro(cost.least.seconds)} to "
        f"{_micro(cost.most.seconds)} µs of CPU, as published or measured elsewhere: "
        f"{_micro(cost.least.seconds)} ({cost.least.source}); "
        f"{_micro(cost.most.seconds)} ({cost.most.source}). check --page-cost measures this "
        "machine; where KSM has run, a snapshot has ksmd's own figures."
    )


def cpu_words(scan: ScanRange) -> str:
    """The part of a CPU that ``scan`` takes."""
    shares = sorted(end.cpu_share or 0 for end in (scan.least, scan.most))
    return f"{words_between(shares, lambda share: percent(share, 1))} of a CPU"


def scan_words(scan: ScanRange) -> str:
    """A full scan: its setting, its time and its cost."""
    most = scan.most
    return (
        f"pages_to_scan {count(most.pages_to_scan)} every {most.sleep_millisecs} ms visits "
        f"{plural(most.pages, 'page')} in {_seconds(scan)}, {cpu_words(scan)}"
    )


def _seconds(scan: ScanRange) -> str:
    return words_between(sorted((scan.least.seconds, scan.most.seconds)), human_seconds)


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g}"

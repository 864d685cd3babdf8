"""Write the page of published figures, forecast and rebuilt, for `scripts/figures`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.apt import LabError
from tests.lab.figures import (
    NODE_GIB,
    Forecasts,
    NodeScan,
    ScanRow,
    cost_of,
    node_scans,
    scan_rows,
    skipped_until,
    virt_handler_sleep,
)
from tests.lab.figures_guest import (
    ADVISOR_SECONDS,
    MEMORY_MIB,
    PACES,
    SCALE,
    SCANS,
    GuestTruth,
    load,
    watch,
)
from tests.lab.figures_tables import (
    Compared,
    advised_table,
    compare_history,
    counters_table,
    minutes,
    node_table,
    scan_time_table,
    share,
    skip_table,
    table,
    timed_table,
)
from tests.lab.figures_words import (
    ADVISOR,
    COST,
    INTRODUCTION,
    KUBEVIRT,
    NOT_REBUILT,
    SCAN_TIME,
    SHAPE,
    SMART_SCAN,
    VIRT_HANDLER,
)
from tests.lab.instagram import PROCESSES, as_published
from tests.lab.kernels import ensure_tools, say

PAGE = Path(__file__).parents[2] / "docs" / "published-figures.md"
COSTS = (3.4, 6.0)
"""Microseconds per page that the published shares of a CPU come to, at rest and at the start."""
BUSY = COSTS[-1]
PAGES_TO_SCAN = (100, 1000, 2000, 3000, 4000, 5000)
ADVISED_SCANS = 40
FEWER_PROCESSES = 28
"""So many have 14.9 M candidates: "less than 15M pages" are left to a scan by smart_scan."""
SWEEPS = {16: "3.5 min", 96: "21 min", 256: "56 min", 512: "112 min", 1024: "112 min"}
"""The table of ksm-tune.py: pages_to_scan 1000, sleep_millisecs 50, and 25 for the last."""
VIRT_HANDLER_PAGES = 1250
USED = 0.8


@dataclass(frozen=True)
class Found:
    """All that the page shows.

    ``by_cost``: a full scan for each cost in microseconds and pages_to_scan. ``smart``, ``eighth``:
    scans with smart_scan on, at full scale and in the guest; ``timed``: the guest's by
    pages_to_scan. ``advised_all``, ``advised_fewer``: with the advisor, of all pages and of fewer.
    """

    at_rest: dict[str, Any]
    by_cost: dict[float, dict[int, ScanRow]]
    smart: list[ScanRow]
    eighth: list[ScanRow]
    timed: dict[int, list[ScanRow]]
    advised_all: list[ScanRow]
    advised_fewer: list[ScanRow]
    compared: Compared
    truth: GuestTruth
    sweeps: list[NodeScan]
    virt_handler: list[NodeScan]


def find(keep: Path, truth: GuestTruth) -> Found:
    """Ask for every forecast."""
    forecasts = Forecasts(keep)
    enabled = ("--scope", "enabled")
    fixed, smart = (*enabled, "--no-smart-scan"), (*enabled, "--smart-scan")
    by_cost: dict[float, dict[int, ScanRow]] = {}
    for cost in COSTS:
        for number in PAGES_TO_SCAN:
            pace = ("--pages-to-scan", number, "--page-cost", cost, "--scans", 2)
            answer = forecasts.ask("instagram", *fixed, *pace)
            by_cost.setdefault(cost, {})[number] = scan_rows(answer)[-1]
    advisor = (*fixed, "--advisor", "scan-time", "--page-cost", BUSY, "--scans", ADVISED_SCANS)
    fewer = [word for pid in range(FEWER_PROCESSES) for word in ("--pid", 1_000 + pid)]
    scans = SCANS + 1 + len(PACES)
    guest = {
        number: forecasts.ask("guest", *smart, "--pages-to-scan", number, "--scans", scans)
        for number in PACES
    }
    sweeps = [(gib, 1000, 25 if gib == 1024 else 50) for gib in SWEEPS]
    handled = [(gib, VIRT_HANDLER_PAGES, virt_handler_sleep(gib, USED)) for gib in SWEEPS]
    smart_answer = forecasts.ask("instagram", *smart, "--scans", SCANS)
    return Found(
        answer,
        by_cost,
        scan_rows(smart_answer),
        scan_rows(guest[PACES[0]]),
        {number: scan_rows(told) for number, told in guest.items()},
        scan_rows(forecasts.ask("instagram", *advisor)),
        scan_rows(forecasts.ask("instagram", *advisor, *fewer)),
        compare_history(truth, guest[PACES[0]]),
        truth,
        list(node_scans(forecasts, sweeps)),
        list(node_scans(forecasts, handled)),
    )


def page(found: Found, commit: str) -> str:
    """The whole page, made at ``commit``."""
    shape, compared = as_published(), found.compared
    eighth = shape.part(SCALE)
    truth = found.truth
    equal = compared.compared - len(compared.different)
    parts = [
        INTRODUCTION.format(
            commit=commit,
            scale=SCALE,
            gib=f"{MEMORY_MIB / 1024:g}",
            release=truth.release,
            compared=f"{compared.compared:,}",
            equal=f"{equal:,}",
            scans=SCANS,
        ),
        *_differences(compared),
        SHAPE.format(
            processes=PROCESSES,
            forked=f"{shape.forked:,}",
            equal=f"{shape.equal + shape.twice:,}",
            common=f"{shape.common * shape.copies:,}",
            own=f"{shape.own:,}",
            gib=f"{shape.frames / 2**18:.1f}",
            candidates=f"{PROCESSES * shape.pages:,}",
            eighth=f"{PROCESSES * eighth.pages:,}",
            eighth_gib=f"{eighth.frames / 2**18:.1f}",
        ),
        counters_table(found.at_rest),
        COST,
        _cost_table(),
        SCAN_TIME,
        scan_time_table(found.by_cost),
        _scan_time_words(found),
        timed_table(truth, found.timed),
        SMART_SCAN,
        skip_table(found.smart, found.eighth, truth),
        _smart_scan_words(found),
        ADVISOR.format(fewer=FEWER_PROCESSES, cost=f"{BUSY:g}"),
        _advisor_table(found),
        _advisor_words(found),
        advised_table(truth),
        KUBEVIRT.format(largest=NODE_GIB[-1]),
        node_table(found.sweeps, SWEEPS),
        VIRT_HANDLER.format(pages=f"{VIRT_HANDLER_PAGES:,}", used=share(USED)),
        node_table(found.virt_handler, {}),
        NOT_REBUILT,
    ]
    return "\n".join(parts)


def _differences(compared: Compared) -> list[str]:
    told = [
        f"- {what}: forecast {ours:,}, ksmd {true:,}"
        for what, (ours, true) in compared.different.items()
    ]
    return ["\n".join(["**Not equal:**\n", *told]) + "\n"] if told else []


def _cost_table() -> str:
    told = (("60 % at the start", 0.6, (5000, 6000)), ("30 % at rest", 0.3, (2500,)))
    rows = []
    for words, cpu_share, settings in told:
        for number in settings:
            micro = 1e6 * cost_of(cpu_share, number)
            rows.append((words, f"{number:,}", f"{micro:.1f} µs"))
    return table(("published ", "pages_to_scan ", "a page "), rows)


def _scan_time_words(found: Found) -> str:
    low, high = (rows for rows in found.by_cost.values())
    within = [
        f"{number:,}"
        for number in PAGES_TO_SCAN
        if low[number].seconds[1] <= 180 and high[number].seconds[1] >= 120
    ]
    timed = found.truth.timed
    asleep = sum(scan.seconds - scan.cpu_seconds for scan in timed)
    each = 1000 * asleep / sum(scan.sleeps for scan in timed)
    return (
        f"A scan of two to three minutes is in reach with {', '.join(within)}, at one of the two "
        f"costs; with 100 it takes {minutes(low[100].seconds[1])}. In the guest some full scans "
        "with all merged were timed. ksmd's sleeps are its voluntary context switches, read by a "
        "shell in the guest that also sets the next pages_to_scan: one or two more or less, if it "
        "came late or lru_add_drain_all() slept too, which starts a full scan. CPU time is that of "
        f"an emulated processor and says nothing. A sleep of 20 ms took {each:.1f} ms: it is "
        "counted in ticks, of 4 ms in this kernel (CONFIG_HZ=250), and begins within one, so that "
        "it takes 20 to 24 ms; the rest is emulation on a busy machine. The forecast has 20 ms: on "
        "such a kernel the time asleep is about a tenth longer.\n"
    )


def _smart_scan_words(found: Found) -> str:
    skipped = skipped_until(found.smart)
    lives = [n for n, part in enumerate(skipped, 1) if 0.1 <= part <= 0.25]
    at_rest = found.at_rest["at_rest"]
    unmerged = at_rest["pages_unshared"] + at_rest["pages_volatile"]
    most = 8 / 9 * unmerged / at_rest["ksm_rmap_items"]
    numbers = f"{lives[0]} to {lives[-1]}" if lives else "no number of"
    return (
        f"The published 10 to 25 % are what pages get that live {numbers} full scans, some "
        f"{2 * lives[0] if lives else 0} to {3 * lives[-1] if lives else 0} minutes at two to "
        "three minutes each. Of pages that live for ever 8 visits of 9 are skipped unless they are "
        f"merged: {share(most)} of all visits here. So what explains the distance is how long "
        "workers and their pages live, which is not published: a new page is not skipped in its "
        "first four scans. The pages of a snapshot are all new at once, so their skips come in "
        "step; on a server they are spread over the scans, with the same sum.\n"
    )


def _advisor_table(found: Found) -> str:
    start, rest = found.advised_all[-1], found.advised_fewer[-1]
    fixed = found.by_cost[BUSY][5000].cpu_share[1]
    saved = 1 - rest.cpu_share[1] / fixed
    lab = found.truth.advised[-1]
    rows = [
        (
            "pages_to_scan at the start",
            "5,000-6,000",
            f"{start.pages_to_scan:,} ({start.pages / 1e6:.1f} M pages)",
            "-",
            "More than 20 M pages are published; and the advisor aims a little low: it multiplies "
            "by a moving average that integer division keeps below 1.",
        ),
        (
            "pages_to_scan at rest",
            "2,500 or less, about 40 % of its most",
            f"{rest.pages_to_scan:,}, {share(rest.pages_to_scan / start.pages_to_scan)}",
            f"{lab[1]:,} (an eighth)",
            "Forecast for the pages that are published to be left to a scan; of the pages that a "
            "server has when it starts, more than twice as many, no snapshot is published.",
        ),
        (
            "ksmd at the start",
            "up to 60 % of a CPU",
            share(start.cpu_share[1]),
            "-",
            "The cost of a page is from this figure, so this says only that it fits.",
        ),
        (
            "ksmd at rest",
            "around 30 % of a CPU",
            share(rest.cpu_share[1]),
            "-",
            "At rest more of the pages are merged ones, which ksmd neither hashes nor searches: a "
            "page costs less then, a forecast has one cost for all.",
        ),
        (
            "CPU time saved",
            "20-30 %, 25 %",
            f"{share(saved)}, against 5,000 all the time",
            "-",
            "With a fixed pages_to_scan the share of a CPU does not depend on how many pages there "
            "are; with the advisor it falls with them.",
        ),
    ]
    columns = ("", "published", "forecast", "lab", "what explains the distance")
    return table(columns, rows)


def _advisor_words(found: Found) -> str:
    late = next(
        row.full_scan
        for row in found.advised_all
        if row.pages_to_scan >= 0.9 * found.advised_all[-1].pages_to_scan
    )
    until = sum(row.seconds[1] for row in found.advised_all[: late - 1])
    return (
        f"From advisor_min_pages_to_scan 500 it takes {late - 1} full scans, "
        f"{minutes(until)}, to come within 10 % of where it settles. In the guest, with "
        f"advisor_target_scan_time {ADVISOR_SECONDS} s for an eighth of the memory, the advisor is "
        "switched on when all has merged; time is that of an emulated processor, and the rule is "
        "given what the kernel measured (the first share counts all CPU time since boot):\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a counter of the guest is not as forecast, or it could not be run."""
    parser = argparse.ArgumentParser(description="Published figures, forecast and rebuilt.")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default {PAGE.name})")
    parser.add_argument("--keep", type=Path, help="keep what each step gave here, and go on")
    parser.add_argument("--commit", required=True, help="what made the page")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ksm-figures.") as directory:
        keep = given.keep or Path(directory)
        keep.mkdir(exist_ok=True)
        if not (keep / "truth.json").exists():
            ensure_tools()
            try:
                watch(keep)
            except LabError as error:
                say(str(error))
                return 1
        found = find(keep, load(keep / "truth.json"))
    given.out.write_text(page(found, given.commit))
    return 1 if found.compared.different else 0


if __name__ == "__main__":
    sys.exit(main())

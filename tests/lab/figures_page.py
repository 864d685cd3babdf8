"""Write the page of published figures, forecast and rebuilt, for `scripts/figures`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tests.lab.apt import LabError
from tests.lab.figures import NODE_GIB, cost_of, skipped_until
from tests.lab.figures_found import (
    BUSY,
    COSTS,
    FEWER_PROCESSES,
    PAGES_TO_SCAN,
    SWEEPS,
    USED,
    VIRT_HANDLER_PAGES,
    Found,
    find,
)
from tests.lab.figures_guest import (
    ADVISOR_SECONDS,
    MEMORY_MIB,
    SCALE,
    SCANS,
    load,
    watch,
)
from tests.lab.figures_tables import (
    Compared,
    advised_by_rule,
    advised_table,
    counters_table,
    minutes,
    node_table,
    scan_time_table,
    share,
    skip_table,
    table,
    timed_pairs,
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


def page(found: Found, commit: str) -> str:
    """The whole page, made at ``commit``."""
    shape, compared = as_published(), found.compared
    eighth = shape.part(SCALE)
    truth = found.truth
    equal = compared.compared - len(compared.different)
    least, most = found.node_cost
    parts = [
        INTRODUCTION.format(
            commit=commit,
            scale=SCALE,
            gib=f"{MEMORY_MIB / 1024:g}",
            release=truth.release,
            counters=compared.compared // SCANS,
            compared=f"{compared.compared:,}",
            equal=f"{equal:,}",
            scans=SCANS,
        ),
        *_differences(compared),
        "## In short\n",
        _short_table(found),
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
        _advisor_words(found),
        advised_table(truth),
        KUBEVIRT.format(largest=NODE_GIB[-1], least=f"{least:g}", most=f"{most:g}"),
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


def _short_table(found: Found) -> str:
    """Each figure: published, forecast, in the lab, and why they differ."""
    low, high = found.by_cost.values()
    start, rest = found.advised_all[-1], found.advised_fewer[BUSY][-1]
    cheap = found.advised_fewer[COSTS[0]][-1]
    saved, saved_cheap = (
        share(1 - row.cpu_share[1] / fixed[5000].cpu_share[1])
        for row, fixed in ((rest, high), (cheap, low))
    )
    timed = timed_pairs(found.truth, found.timed)
    pages_off = max(abs(row.pages - scan.pages_scanned) for scan, row in timed)
    batches_off = max(abs(row.batches - scan.sleeps) for scan, row in timed)
    steps = list(zip(advised_by_rule(found.truth), found.truth.advised, strict=True))
    right = sum(by_rule == kernels for by_rule, (_, kernels, _) in steps)
    ends, number = found.truth.history[-1], len(found.truth.history)
    ours = skipped_until(found.eighth)[number - 1]
    skipped = ends["pages_skipped"] / (ends["pages_skipped"] + ends["pages_scanned"])

    def took(pages_to_scan: int) -> str:
        ends = (low[pages_to_scan].seconds[1], high[pages_to_scan].seconds[1])
        return " to ".join(minutes(end) for end in ends)

    rows = [
        (
            "a full scan with pages_to_scan 100",
            '"way too low"; a scan of 20 min shows it',
            took(100),
            "-",
            f"ksmd then takes {share(low[100].cpu_share[1])} to {share(high[100].cpu_share[1])} "
            "of a CPU, and sleeps.",
        ),
        (
            "with 4,000, with 5,000",
            "two to three minutes",
            f"{took(4000)}, {took(5000)}",
            f"pages at most {pages_off:,} off, batches {batches_off}",
            "What a page costs; and smart_scan, which is off here, leaves fewer pages.",
        ),
        (
            "with 2,000-3,000, other workloads",
            "a good value",
            "-",
            "-",
            "Not rebuilt: nothing of their size is published.",
        ),
        (
            "skipped by smart_scan",
            "10-20 %; 20-25 %",
            f"{share(_most_skipped(found))} in the long run, {share(_skipped_in_few(found)[0])} to "
            f"{share(_skipped_in_few(found)[1])} of pages that live {_lives(found)} scans",
            f"{share(skipped)} in {number} scans, forecast {share(ours)}",
            "How long pages live, which is not published.",
        ),
        (
            "pages_to_scan of the advisor at the start",
            "5,000-6,000",
            f"{start.pages_to_scan:,}",
            f"{right} of {len(steps)} steps as forecast from what the kernel measured",
            f"More than 20 M pages are published, here are {start.pages / 1e6:.1f} M; and where "
            "the advisor settles a scan takes longer than its target: it multiplies by a moving "
            "average in whole percent, rounded down.",
        ),
        (
            "at rest",
            "2,500 or less; 40 % of its most",
            f"{cheap.pages_to_scan:,} to {rest.pages_to_scan:,}; "
            f"{share(rest.pages_to_scan / start.pages_to_scan)}",
            "-",
            "The pages of a start, more than twice as many, are not published.",
        ),
        (
            "ksmd at the start",
            "up to 60 % of a CPU",
            share(start.cpu_share[1]),
            "-",
            "It only fits: the cost of a page is from this figure.",
        ),
        (
            "ksmd at rest",
            "around 30 % of a CPU",
            f"{share(cheap.cpu_share[1])} to {share(rest.cpu_share[1])}",
            "-",
            "The most is with the cost of the start. At rest more of the visits are to merged "
            "pages, which ksmd neither hashes nor searches for: they cost less.",
        ),
        (
            "CPU time that the advisor saves",
            "20-30 %; 25 %",
            f"{saved}; {saved_cheap} if pages cost less",
            "-",
            "Against 5,000 all the time, whose share of a CPU does not fall with the pages.",
        ),
    ]
    columns = ("", "published", "forecast", "lab", "what explains the distance")
    return table(columns, rows)


def _most_skipped(found: Found) -> float:
    """Of all visits to pages that live for ever: 8 of 9, but to merged ones."""
    at_rest = found.at_rest["at_rest"]
    unmerged = at_rest["pages_unshared"] + at_rest["pages_volatile"]
    return float(8 / 9 * unmerged / at_rest["ksm_rmap_items"])


def _few(found: Found) -> range:
    """Full scans in which some 10 to 25 % of the visits are skipped."""
    near = [n for n, part in enumerate(skipped_until(found.smart), 1) if 0.1 <= part <= 0.25]
    return range(near[0], near[-1] + 1) if near else range(0)


def _skipped_in_few(found: Found) -> tuple[float, float]:
    shares = [skipped_until(found.smart)[n - 1] for n in _few(found)] or [0.0]
    return min(shares), max(shares)


def _lives(found: Found) -> str:
    few = _few(found)
    return f"{few[0]} to {few[-1]}" if few else "no"


def _scan_time_words(found: Found) -> str:
    low, high = found.by_cost.values()
    within = [
        f"{number:,}"
        for number in PAGES_TO_SCAN
        if low[number].seconds[1] <= 180 and high[number].seconds[1] >= 120
    ]
    slept = [1000 * (scan.seconds - scan.cpu_seconds) / scan.sleeps for scan in found.truth.timed]
    return _paragraph(
        f"Two to three minutes are in reach with {' and '.join(within)}, if a page costs what it "
        "does at rest. In the guest some full scans with all merged were timed. ksmd's sleeps are "
        "its voluntary context switches, read by a shell in the guest that also sets the next "
        "pages_to_scan: one or two more or less if it came late, or if lru_add_drain_all() slept "
        f"too, which starts a full scan. A sleep of 20 ms took {min(slept):.0f} to "
        f"{max(slept):.0f} ms: it is counted in ticks, of 4 ms in this kernel (CONFIG_HZ=250), and "
        "begins within one, so that it takes 20 to 24 ms; the rest is emulation on a busy machine. "
        "The forecast has 20 ms: on such a kernel the time asleep is about a tenth longer."
    )


def _smart_scan_words(found: Found) -> str:
    few = _few(found)
    ages = f"{2 * few[0]} to {3 * few[-1]} minutes" if few else "none"
    low, high = _skipped_in_few(found)
    return _paragraph(
        f"So the published shares are those of pages that live {_lives(found)} full scans "
        f"({100 * low:.0f} to {100 * high:.0f} %): {ages} at two to three minutes each. Of pages "
        "that live for ever 8 visits of 9 are skipped unless they are merged, "
        f"{share(_most_skipped(found))} of all visits here. What explains the distance is how long "
        "workers and their pages live, which is not published: a new page is not skipped in its "
        "first four scans. The pages of a snapshot are all new at once, so their skips come in "
        "step; on a server they are spread over the scans, with the same sum."
    )


def _advisor_words(found: Found) -> str:
    late = next(
        row.full_scan
        for row in found.advised_all
        if row.pages_to_scan >= 0.9 * found.advised_all[-1].pages_to_scan
    )
    until = sum(row.seconds[1] for row in found.advised_all[: late - 1])
    settled = [scans[-1].pages_to_scan for scans in (found.advised_all, found.advised_fewer[BUSY])]
    return _paragraph(
        f"It settles at {settled[0]:,} and at {settled[1]:,}. From advisor_min_pages_to_scan 500 "
        f"it takes {late - 1} full scans, {minutes(until)}, to come within 10 % of the first: "
        "where Meta's started is not published. In the guest, with advisor_target_scan_time "
        f"{ADVISOR_SECONDS} s for an eighth of the memory, the advisor is switched on when all has "
        "merged. Time is that of an emulated processor on a busy machine; what the rule of "
        "`forecast` makes of the time that the kernel measured is compared with what the kernel "
        "made of it (the first share counts all of ksmd's CPU time since boot)."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_on_hyphens=False) + "\n"


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

"""What a full scan costs by its steps, against the same steps counted by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from estimator.advice.cost_terms import CostTerms, ScanWork, merging_work, resting_work, works
from estimator.advice.moment import marks, moment
from estimator.advice.pace import Pacing, pace
from estimator.advice.page_cost import CostRange, PageCost, cost_by_terms
from estimator.advice.reach import Wish, reach
from estimator.advice.scan_time import pause_seconds, scan_time
from estimator.advice.schedule import schedule
from estimator.errors import CannotAnswerError
from estimator.ksm.forecast import Forecast, forecast
from estimator.ksm.predict import predict
from estimator.snapshot.store import write_snapshot
from tests.commands import estimator
from tests.synthetic import System, small
from tests.systems import fork_server

TERMS = CostTerms(1e-6, 10e-6, 100e-6, 1000e-6, 10e-3, 0.1, 0.0, 0.004)
ALONE, SAME = 8, 16


def two_processes(kernel: str = "6.12") -> Forecast:
    """Two processes with 16 pages that both have, and 8 that only one has."""
    system = System(kernel, smart_scan=0)
    for _ in range(2):
        system.process(*small(*range(1, SAME + 1), *system.unique(ALONE)))
    return forecast(system.snapshot(), scans=3)


def grown(pages: int) -> float:
    """Levels of a tree, on the average while it grows to so many pages."""
    return math.log2(pages) - 1 / math.log(2)


def test_the_first_scan_hashes_the_second_merges_and_then_only_the_rest_is_searched_for() -> None:
    pages, alone = 2 * (SAME + ALONE), 2 * ALONE
    first, second, third = works(two_processes())[:3]
    assert first == ScanWork(pages, pages, 0, 0, 0, 0)
    assert (second.visited_pages, second.hashed_pages, second.merged_pages) == (pages, pages, 32)
    in_unstable = pages * grown(alone + SAME)
    assert second.lookups == pytest.approx(in_unstable)
    assert second.comparisons == pytest.approx((pages + SAME) * math.log2(SAME) / 2 + in_unstable)
    assert (third.visited_pages, third.hashed_pages, third.merged_pages) == (pages, alone, 0)
    assert third.comparisons == pytest.approx(alone * (math.log2(SAME) + grown(alone)))
    assert third.lookups == pytest.approx(alone * grown(alone))


def test_up_to_6_10_the_stable_tree_is_searched_before_the_checksum_is_looked_at() -> None:
    """With nothing in it that is for nothing; at rest it is as before."""
    old, new = (works(two_processes(kernel)) for kernel in ("6.1", "6.12"))
    assert old[0] == new[0]
    assert old[2] == new[2]


def test_each_term_is_paid_for_its_step() -> None:
    work = ScanWork(1, 2, 3, 4, 5, 6)
    assert work.cpu_seconds(TERMS) == pytest.approx(1e-6 + 2e-5 + 3e-4 + 4e-3 + 5e-2 + 0.6)
    unknown = replace(TERMS, split_seconds=None)
    assert replace(work, split_folios=0).cpu_seconds(unknown) == pytest.approx(54.321e-3)
    with pytest.raises(CannotAnswerError, match="large folios are split"):
        work.cpu_seconds(unknown)


def test_a_huge_page_is_found_without_a_lookup_of_its_own() -> None:
    found = predict(fork_server())
    flags = found.snapshot.mappings["flags"].to_numpy()
    huge = found.snapshot.mappings.assign(flags=flags | 2)
    in_huge = replace(found, snapshot=replace(found.snapshot, mappings=huge))
    assert merging_work(found).lookups > 0
    assert merging_work(in_huge).lookups == 0
    assert merging_work(in_huge).comparisons == merging_work(found).comparisons


def test_a_scan_at_rest_costs_what_the_last_of_a_forecast_does() -> None:
    found = two_processes()
    assert resting_work(found.at_rest, 2 * (SAME + ALONE)) == works(found)[-1]


def test_the_times_of_scans_follow_from_the_terms() -> None:
    """CPU time: the work of all scans, and a wake-up for each batch, as far as it hashes pages."""
    found, cost = two_processes(), cost_by_terms(replace(TERMS, wake_seconds=0.5), "given")
    paced = pace(found.at_rest.snapshot, found, Pacing(10, 20), CostRange(cost, cost))
    each = [work.cpu_seconds(TERMS) for work in works(found)]
    pages = 2 * (SAME + ALONE)
    wakes = [count / 10 * 0.5 for count in (pages, 2 * ALONE, 2 * ALONE)]
    found_seconds = paced.scans["cpu_seconds"].diff().tolist()[1:]
    assert found_seconds == pytest.approx(np.add(each[1:], wakes[: len(each) - 1]).tolist())
    for mark in marks(found, paced):
        then = moment(found, paced, mark.seconds[0] + 1e-9)
        assert then.cpu_seconds[0] == pytest.approx(mark.cpu_seconds[0])
    wish = reach(found, Wish(0.9, 1000.0, 1.0), 20, cost)
    assert wish.full_scans == 2
    assert wish.cpu_share * wish.seconds == pytest.approx(
        sum(each[:2]) + 2 * 2 * (SAME + ALONE) / wish.pages_to_scan * 0.5
    )


def test_settings_are_for_the_scan_that_merges() -> None:
    snapshot = fork_server()
    found = predict(snapshot)
    cost = cost_by_terms(TERMS, "given")
    times = schedule(snapshot, found, 1e6, cost)
    merging = merging_work(found)
    assert times.proposed.most.seconds <= 1e6
    share = times.first.most.cpu_share
    assert share is not None
    page_seconds = share * times.first.most.seconds / times.first.most.pages
    assert page_seconds == pytest.approx(merging.cpu_seconds(TERMS) / merging.visited_pages)


@pytest.mark.parametrize(
    ("sleep", "busy_seconds", "pause"),
    [(20, 0.001, 0.023), (20, 0.002, 0.022), (20, 0.050, 0.022), (21, 0.050, 0.026), (0, 0.001, 0)],
)
def test_a_sleep_ends_on_the_tick_after(sleep: int, busy_seconds: float, pause: float) -> None:
    """Measured at 250 Hz: batches of little work come every 24 ms with a sleep of 20."""
    cost = PageCost(busy_seconds / 100, "given", TERMS)
    assert pause_seconds(100, sleep, cost) == pytest.approx(pause)
    assert pause_seconds(100, sleep, replace(cost, terms=None)) == sleep / 1000
    took = scan_time(1000, 100, sleep, cost).seconds
    assert took == pytest.approx(11 * pause + 10 * busy_seconds)


def test_terms_on_the_command_line(tmp_path: Path) -> None:
    write_snapshot(fork_server(), tmp_path / "a.ksm")
    micro = {n.removesuffix("_seconds"): 1e6 * s for n, s in asdict(TERMS).items()}
    typed = ",".join(f"{name}={number:g}" for name, number in micro.items())
    told = json.loads(
        estimator("forecast", tmp_path / "a.ksm", "--json", "--page-cost", typed).stdout
    )
    assert told["cost"]["most"]["terms"] == pytest.approx(asdict(TERMS))
    each = [scan["page_seconds"] for scan in told["scans"]]
    assert each[1] > each[0]
    done = estimator("advise", tmp_path / "a.ksm", "--page-cost", typed)
    assert done.returncode == 0
    assert "merge 10,000 µs" in done.stdout.replace("\n", " ")

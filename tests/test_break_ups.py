"""Merged pages that are written now and then: rates from several looks, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estimator.advice.break_ups import break_ups
from estimator.advice.pace import Pacing, pace
from estimator.advice.page_cost import CostRange, PageCost
from estimator.ksm.forecast import forecast
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.report.forecast_sections import forecast_json, forecast_sections
from estimator.snapshot.snapshot import Snapshot
from tests.test_passes import looks


def every(seconds: float, *contents: list[int | None]) -> Snapshot:
    found = looks(*contents)
    passes = found.info["passes"] | {"interval_seconds": seconds}
    return replace(found, info=found.info | {"passes": passes})


# the rest is 1, 2, 3; in the last two looks 1 and 2 hold still, 7 has no equal
CONTENTS: tuple[list[int | None], ...] = ([9, 2, 7], [8, 2, 7], [1, 2, 6], [1, 2, 6], [1, 2, 6])


def test_what_merges_and_was_written_before_is_counted_once() -> None:
    found = break_ups(predict(every(5.0, *CONTENTS), Policy()))
    assert found is not None
    assert (found.merged_pages, found.written_pages) == (4, 1)
    assert found.seconds == 15.0  # three pairs of looks before the last
    assert found.per_second == pytest.approx(1 / 15)
    table = found.table[["comm", "merged_pages", "written_pages"]]
    assert table.to_numpy().tolist() == [["web", 2, 1]]
    assert found.table["per_second"].tolist() == [pytest.approx(1 / 15)]


@pytest.mark.parametrize("contents", [CONTENTS[:1], CONTENTS[:2]])
def test_two_looks_do_not_tell(contents: tuple[list[int | None], ...]) -> None:
    assert break_ups(predict(every(5.0, *contents), Policy())) is None


def test_looks_at_unknown_times_do_not_tell() -> None:
    assert break_ups(predict(every(0.0, *CONTENTS), Policy())) is None


def test_a_page_is_missing_from_its_write_until_it_merges_again() -> None:
    """Written each 15 s, and back after 1.5 scans: of 10 s each, it is missing half of the time."""
    found = break_ups(predict(every(5.0, *CONTENTS), Policy()))
    assert found is not None
    assert found.scans_until_back == 1.5
    assert found.missing_pages(10.0) == pytest.approx(0.5)
    assert found.missing_pages(0.0) == 0
    old = every(5.0, *CONTENTS)
    features = old.info["features"] | {"checksum_before_stable_tree": False}
    before = break_ups(predict(replace(old, info=old.info | {"features": features}), Policy()))
    assert before is not None
    assert before.scans_until_back == 0.5


def test_the_forecast_tells_it() -> None:
    snapshot = every(5.0, *CONTENTS)
    found = forecast(snapshot)
    cost = CostRange(PageCost(1.0, "given"), PageCost(2.0, "given"))
    paced = pace(snapshot, found, Pacing(100, 1000), cost)
    told = forecast_json(found, paced)["break_ups"]
    scanned = 6
    assert told["written_pages"] == 1
    # a scan takes 6 or 12 s, and a second asleep
    assert told["missing_pages"] == [
        pytest.approx(1.5 * s / (1.5 * s + 15)) for s in (scanned + 1, 2 * scanned + 1)
    ]
    titles = [section.title for section in forecast_sections(found, paced)]
    assert "Merged pages that are written" in titles
    still = forecast(every(5.0, *[CONTENTS[-1]] * 4))
    paced = pace(snapshot, still, Pacing(100, 1000), cost)
    told = forecast_json(still, paced)["break_ups"]
    assert (told["written_pages"], told["table"]) == (0, [])
    assert "Merged pages that are written" not in [
        section.title for section in forecast_sections(still, paced)
    ]

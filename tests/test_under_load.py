"""What `scripts/proof --moving` judges by: it notices what is wrong."""

from __future__ import annotations

import pytest

from estimator.collect.passes import collect_passes
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from tests.lab.here.moving import Moving, at_rest, of_one_pass, page
from tests.systems import Area, Process, system


def moving(**true: int) -> Moving:
    """100 pages in two processes, of which 10 change; ``true``: what ksmd shows of them."""
    before = [*range(90), *range(200, 210)]
    looks = iter(
        system([Process("a", [Area(c)], pid=10), Process("b", [Area([*range(100)])], pid=11)])
        for c in (before, before, [*range(100)])
    )
    snapshot = collect_passes(lambda: next(looks), 3, 0.0)
    prediction, once = (predict(s, Policy()) for s in (snapshot, of_one_pass(snapshot)))
    counters = {"pages_shared": 90, "pages_sharing": 90, "pages_volatile": 10} | true
    return Moving(prediction, once, [counters | {"pages_unshared": 10}] * 6, 1.0)


def test_what_moved_is_what_one_pass_promises_too_much() -> None:
    found = moving()
    assert found.once.counters["pages_sharing"] == 100
    assert found.prediction.counters["pages_sharing"] == 90
    assert found.moved_pages == 10
    assert found.outside == []
    assert "10 of 100 pages_sharing moved (10.0%)" in page(found, [], "0123abc")


@pytest.mark.parametrize(
    ("name", "true", "allowed"),
    [
        ("pages_sharing", 93, False),  # 90 are 3.2 % less
        ("pages_sharing", 92, True),
        ("pages_shared", 87, False),
        ("pages_shared", 88, True),
        ("pages_volatile", 9, False),
    ],
)
def test_a_counter_that_is_too_far_off_is_named(name: str, true: int, allowed: bool) -> None:
    assert moving(**{name: true}).outside == ([] if allowed else [name])


def test_ksmd_is_at_rest_when_three_scans_agree() -> None:
    scans = [{"pages_sharing": n} for n in (500, 1000, 1004, 1009, 1015)]
    assert at_rest(scans[:4])
    assert not at_rest(scans[:3])
    assert not at_rest(scans[1:3])
    assert not at_rest(scans[2:] + [{"pages_sharing": 1030}])

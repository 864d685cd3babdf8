"""What several looks say of a page: steady, changed, or gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estimator.collect.passes import collect_passes
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.flags import MappingFlag
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, system


def looks(*contents: list[int | None]) -> Snapshot:
    """What ``collect_passes`` makes of a process that has these contents, one list per look."""
    rest = Process("rest", [Area([1, 2, 3])], pid=11)
    snapshots = iter([system([Process("web", [Area(c)], pid=10), rest]) for c in contents])
    return collect_passes(lambda: next(snapshots), len(contents), 0.0)


def flagged(snapshot: Snapshot, flag: MappingFlag = MappingFlag.CHANGED) -> list[bool]:
    return ((snapshot.mappings["flags"] & int(flag)) != 0).tolist()


STILL = [False, False, False]  # the rest


def test_a_page_with_other_bytes_in_the_look_before_has_changed() -> None:
    found = looks([1, 2, 3], [1, 7, 3], [1, 2, 9])
    assert flagged(found) == [False, True, True, *STILL]
    assert flagged(found, MappingFlag.CHANGED_BEFORE) == [False] * 6
    assert found.info["passes"] == {"count": 3, "interval_seconds": 0.0}


def test_a_page_that_changed_before_that_is_as_it_was_last() -> None:
    """2 becomes 7 and stays so: ksmd merges it with the rest's 7 in the scan after."""
    found = looks([1, 2, 5], [1, 3, 5], [1, 3, 5], [1, 3, 9])
    assert flagged(found) == [False, False, True, *STILL]
    assert flagged(found, MappingFlag.CHANGED_BEFORE) == [False, True, False, *STILL]
    prediction = predict(found, Policy())
    assert (prediction.counters["pages_sharing"], prediction.coverage.moved_frames) == (2, 1)
    said = prediction.warnings[-1]
    assert "1 changed or were new" in said
    assert "1 more changed between earlier looks only" in said
    assert "50.0% of what would become free if nothing changed moved between the looks" in said
    assert "not saved" not in said


def test_a_page_that_was_not_there_in_the_look_before_is_new_to_ksmd() -> None:
    found = looks([1, 2], [1, 2, 3])
    assert flagged(found) == [False, False, True, *STILL]
    assert flagged(looks([1, 2], [1, 2, 3], [1, 2, 3])) == [False] * 6


def test_a_new_page_has_not_changed_before() -> None:
    """Whatever the last page of the look before did."""
    contents = iter([[1, 2], [1, 9], [1, 9, 5]])
    found = collect_passes(lambda: system([Process("web", [Area(next(contents))])]), 3, 0.0)
    assert flagged(found) == [False, False, True]
    assert flagged(found, MappingFlag.CHANGED_BEFORE) == [False, True, False]


def test_what_could_not_be_read_in_the_look_before_is_not_compared() -> None:
    found = looks([1, 2, None], [1, 7, 3])
    assert flagged(found, MappingFlag.COMPARED) == [True, True, False, True, True, True]
    assert predict(found, Policy()).coverage.compared_pages == 5
    assert "5 of 6 candidate mappings could be compared" in predict(found, Policy()).warnings[-1]


def test_what_changed_does_not_merge() -> None:
    found = looks([1, 2, 3], [1, 7, 3])
    assert predict(found, Policy()).counters["pages_sharing"] == 2
    assert predict(looks([1, 2, 3], [1, 2, 3]), Policy()).counters["pages_sharing"] == 3


def test_one_look_says_nothing_about_change() -> None:
    found = looks([1, 2, 3])
    one_less = replace(found, info={k: v for k, v in found.info.items() if k != "passes"})
    assert predict(found).warnings == predict(one_less).warnings
    assert predict(looks([1, 2, 3], [1, 2, 3])).warnings != predict(found).warnings


def test_looks_are_an_interval_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    waits: list[float] = []
    monkeypatch.setattr("estimator.collect.passes.time.monotonic", lambda: now[0])
    monkeypatch.setattr("estimator.collect.passes.time.sleep", waits.append)

    def look() -> Snapshot:
        now[0] += 3.0
        return system([Process("web", [Area([1])], pid=10)])

    collect_passes(look, 2, 10.0)
    assert waits == [7.0]


def test_how_much_of_the_saving_moved_between_the_looks_is_said() -> None:
    """Of web and its twin: 1, 2, 3 could be freed; 2 has changed, and 9, which nobody else has."""
    found = predict(looks([1, 7, 3, 8], [1, 2, 3, 9]), Policy())
    assert found.physical["frames_freed"] == 2
    assert found.coverage.moved_frames == 1
    assert "33.3% of what would become free if nothing changed moved" in found.warnings[-1]
    assert "(1 of 3 frames, 0.0 MiB): it counts as not saved." in found.warnings[-1]


def test_a_change_that_nobody_shares_moves_no_saving() -> None:
    found = predict(looks([1, 2, 9], [1, 2, 8]), Policy())
    assert (found.coverage.changed_pages, found.coverage.moved_frames) == (1, 0)
    assert "moved between" not in found.warnings[-1]


def test_what_moved_is_not_known_of_one_look() -> None:
    assert predict(system([Process("web", [Area([1, 1])])])).coverage.moved_frames is None
    assert predict(looks([1, 2, 3], [1, 2, 3]), Policy()).coverage.moved_frames == 0
    unread = looks([None], [1])
    assert predict(unread, Policy(pids=(10,))).coverage.moved_frames is None

"""What else could be done with equal pages: other page sizes, loading before the fork."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from estimator.advice.copies import Copies, copies
from estimator.advice.preload import preload, siblings
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot.snapshot import Snapshot
from tests.systems import Area, Process, fork_server, system

PAGE = 4096


def started_by(snapshot: Snapshot, *parents: int | None) -> Snapshot:
    """With the parents' pids of its processes."""
    column = pd.array(list(parents), dtype="Int32")
    return replace(snapshot, processes=snapshot.processes.assign(parent_pid=column))


def loaded(snapshot: Snapshot) -> list[tuple[str, int, int]]:
    """comm, processes and pages of each group."""
    groups = preload(snapshot, predict(snapshot, Policy())).groups
    pages = groups["bytes_saved"] // PAGE
    return list(zip(groups["comm"], groups["processes"], pages, strict=True))


def workers(*contents: list[int], **more: object) -> list[Process]:
    return [Process("w", [Area(list(c))], pid=10 + n) for n, c in enumerate(contents)]


def test_siblings_of_one_parent_could_have_loaded_it_once() -> None:
    snapshot = system([*workers([1, 2, 7], [1, 2, 8], [1, 3, 9]), Process("x", [Area([3])])])
    snapshot = started_by(snapshot, 5, 5, 5, 5)
    found = preload(snapshot, predict(snapshot, Policy()))
    assert found.bytes_saved == 3 * PAGE  # 1 thrice, 2 twice; 3 is a stranger's too
    assert found.merged_bytes == 4 * PAGE
    assert found.unknown_processes == 0
    assert loaded(snapshot) == [("w", 3, 3)]


@pytest.mark.parametrize(
    ("parents", "pages"),
    [
        ((5, 5), 1),
        ((5, 6), 0),  # two parents
        ((1, 1), 0),  # init's
        ((0, 0), 0),  # beyond a pid namespace
        ((5, 10), 1),  # the second was forked by the first
        ((None, None), 0),
    ],
)
def test_who_is_a_sibling(parents: tuple[int | None, ...], pages: int) -> None:
    snapshot = started_by(system(workers([1, 2], [1, 3])), *parents)
    found = preload(snapshot, predict(snapshot, Policy()))
    assert found.bytes_saved == pages * PAGE
    assert found.unknown_processes == parents.count(None)


def test_other_programs_and_services_are_no_siblings() -> None:
    pair = [Process("a", [Area([1])]), Process("b", [Area([1])])]
    assert loaded(started_by(system(pair), 5, 5)) == []
    pair = [Process("a", [Area([1])], cgroup=f"/{n}.service") for n in "xy"]
    assert loaded(started_by(system(pair), 5, 5)) == []


def test_a_child_that_shares_frames_belongs_to_its_parent_whatever_its_name() -> None:
    pair = [
        Process("controller", [Area([1, 2], frames=["f", "own"])], pid=10),
        Process("worker", [Area([1, 2], frames=["f", "copy"])], pid=11),
    ]
    snapshot = started_by(system(pair), 1, 10)
    assert siblings(snapshot).tolist() == [1, 1] or siblings(snapshot).tolist() == [0, 0]
    assert [row[1:] for row in loaded(snapshot)] == [(2, 1)]


def test_what_fork_shares_or_one_process_holds_twice_is_not_counted() -> None:
    shared = [
        Process("w", [Area([1, 1], frames=["f", "g"])], pid=10),
        Process("w", [Area([1, 1], frames=["f", "g"])], pid=11),
    ]
    assert loaded(started_by(system(shared), 5, 5)) == []
    assert loaded(started_by(system(workers([1, 1, 1], [1])), 5, 5)) == [("w", 2, 1)]


def test_zero_filled_pages_are_not_loaded() -> None:
    assert loaded(started_by(system(workers([0, 1], [0, 2])), 5, 5)) == []


def test_an_older_snapshot_knows_no_parents() -> None:
    snapshot = fork_server()
    found = preload(snapshot, predict(snapshot, Policy()))
    assert found.bytes_saved is None
    assert found.unknown_processes == len(snapshot.processes)
    assert found.groups.empty


def test_it_is_never_more_than_merging_frees() -> None:
    snapshot = fork_server()
    snapshot = started_by(snapshot, *[5] * len(snapshot.processes))
    prediction = predict(snapshot, Policy())
    found = preload(snapshot, prediction)
    assert found.bytes_saved is not None
    assert 0 < found.bytes_saved < found.merged_bytes <= prediction.physical["bytes_saved"]


def test_what_copies_are_made_of() -> None:
    pair = [
        Process("a", [Area([1, 2, 0, 0], frames=["f", "g", "y", "z"])]),
        Process("b", [Area([1, 1, 0, 3], frames=["f", "h", "x", "i"])]),
    ]
    snapshot = system(pair)
    found = copies(snapshot, predict(snapshot, Policy()))
    assert found == Copies(8 * PAGE, zero=2 * PAGE, fork=1 * PAGE, real=1 * PAGE)

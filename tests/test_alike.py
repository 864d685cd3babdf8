"""What else could be done with equal pages: other page sizes, loading before the fork."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimator.advice.copies import Copies, copies
from estimator.advice.near import nearly_equal
from estimator.advice.page_sizes import page_sizes
from estimator.advice.preload import preload, siblings
from estimator.errors import TargetError
from estimator.ksm.policy import Policy
from estimator.ksm.predict import predict
from estimator.snapshot import stored_table
from estimator.snapshot.snapshot import Snapshot
from estimator.snapshot.store import open_snapshot, write_snapshot
from tests.commands import estimator
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


def with_hashes(snapshot: Snapshot, **columns: list[int]) -> Snapshot:
    """With further hashes of its frames, as collected; ``columns``: by frame."""
    unknown = snapshot.frames["unknown"].to_numpy() != 0
    made = {
        name: pd.arrays.IntegerArray(np.array(values, np.uint64), unknown)
        for name, values in columns.items()
    }
    info = snapshot.info | {"piece_bytes": 1024, "zero_piece_hash": 0}
    return replace(snapshot, info=info, frames=snapshot.frames.assign(**made))


def pieces(*pages: tuple[int, int, int, int]) -> dict[str, list[int]]:
    return {f"piece_hash_{n}": [page[n] for page in pages] for n in range(4)}


def test_smaller_pages_share_what_whole_ones_do_not() -> None:
    """Frames: two of a's, one that both map, one of b's, one that could not be read."""
    snapshot = system(
        [
            Process("a", [Area([1, 2, 3], frames=["a", "b", "both"])]),
            Process("b", [Area([3, 4, None], frames=["both", "c", "lost"])]),
        ]
    )
    pages = [(1, 2, 0, 0), (1, 2, 3, 3), (1, 2, 4, 5), (4, 5, 1, 2), (9, 9, 9, 9)]
    snapshot = with_hashes(snapshot, **pieces(*pages))
    found = page_sizes(snapshot, predict(snapshot, Policy())).set_index("page_bytes")
    assert list(found.index) == [1024, 2048, 4096, 16384, 65536, 2 << 20]
    assert found["whole_bytes"].tolist()[:3] == [4 * PAGE] * 3
    kinds = {0, 1, 2, 3, 4, 5}
    pairs = {(1, 2), (0, 0), (3, 3), (4, 5)}
    assert found["bytes_saved"][1024] == (16 - len(kinds)) * 1024
    assert found["bytes_saved"][2048] == (8 - len(pairs)) * 2048
    assert found["bytes_saved"][4096] == 0
    assert found["zero_bytes"].tolist()[:3] == [1024, 0, 0]


@pytest.mark.parametrize("rows_at_once", [1, 3, 4, 7, 65_536])
def test_groups_of_pages_do_not_depend_on_pieces(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with three groups each and two pages beyond; two groups are alike."""
    monkeypatch.setattr(stored_table, "_ROWS_AT_ONCE", rows_at_once)
    one, other = [*range(1, 13), 90, 91], [*range(1, 9), 20, 21, 22, 23, 92, 93]
    snapshot = system([Process("a", [Area(one)]), Process("b", [Area(other)])])
    vmas = snapshot.vmas.assign(start=np.uint64(1 << 32), end=np.uint64((1 << 32) + 14 * PAGE))
    snapshot = replace(snapshot, vmas=vmas)
    found = page_sizes(snapshot, predict(snapshot, Policy())).set_index("page_bytes")
    assert found["whole_bytes"].tolist() == [28 * PAGE, 24 * PAGE, 0, 0]
    assert found["bytes_saved"].tolist() == [8 * PAGE, 8 * PAGE, 0, 0]


def test_zero_filled_pages_of_every_size() -> None:
    snapshot = system([Process("a", [Area([0] * 8)])])
    snapshot = with_hashes(snapshot, **pieces(*[(0, 0, 0, 0)] * 8))
    found = page_sizes(snapshot, predict(snapshot, Policy()))
    assert found["zero_bytes"].equals(found["bytes_saved"])
    assert found["zero_bytes"].tolist()[:4] == [31 * 1024, 15 * 2048, 7 * PAGE, 4 * PAGE]


def test_nearly_equal_pages_are_told_by_vma() -> None:
    """1 is there twice and nearly 2; 3 is nearly 4; 5 is like nothing."""
    snapshot = system(
        [
            Process("a", [Area([1, 2], name="[heap]"), Area([5], name="x")]),
            Process("b", [Area([1, 3], name="[heap]"), Area([4], name="[anon:arena]")]),
        ]
    )
    near = [11, 11, 15, 11, 13, 13]
    apart = [1, 2, 5, 1, 3, 4]
    snapshot = with_hashes(snapshot, near_hash=near, no_address_hash=apart)
    found = nearly_equal(snapshot, predict(snapshot, Policy()))
    assert found is not None
    table = found.set_index(["label", "comm"])
    assert table["ends_bytes"].to_dict() == {
        ("[heap]", "a"): PAGE,
        ("[heap]", "b"): PAGE / 2,
        ("[anon:arena]", "b"): PAGE / 2,
    }
    assert table["address_bytes"].sum() == 0


def test_what_was_not_collected_is_not_known(tmp_path: Path) -> None:
    snapshot = system(workers([1, 2], [1, 3]))
    assert nearly_equal(snapshot, predict(snapshot, Policy())) is None
    write_snapshot(snapshot, tmp_path / "a.ksm")
    done = estimator("whatif", tmp_path / "a.ksm", "--json")
    assert (done.returncode, json.loads(done.stdout)["nearly_equal"]) == (0, None)
    done = estimator("whatif", tmp_path / "a.ksm")
    assert "known after collect --near" in done.stdout
    assert "known after collect --pieces" in done.stdout
    for option in ("--near", "--pieces"):
        done = estimator("whatif", tmp_path / "a.ksm", option)
        assert (done.returncode, done.stdout) == (5, "")
        assert f"collect again with {option}" in done.stderr


def test_further_hashes_change_no_prediction(tmp_path: Path) -> None:
    plain = system([Process("a", [Area([1, 2, None, 0])]), Process("b", [Area([1, 0])])])
    hashes = {"near_hash": [7] * 6, "no_address_hash": [8] * 6, **pieces(*[(1, 2, 3, 4)] * 6)}
    write_snapshot(with_hashes(plain, **hashes), tmp_path / "more.ksm")
    write_snapshot(plain, tmp_path / "plain.ksm")
    done = [estimator("predict", tmp_path / f"{name}.ksm", "--json") for name in ("more", "plain")]
    assert done[0].returncode == done[1].returncode == 6
    assert done[0].stdout == done[1].stdout
    read = open_snapshot(tmp_path / "more.ksm")
    assert read.frames["near_hash"].isna().tolist() == [False, False, True, False, False, False]
    done[0] = estimator("whatif", tmp_path / "more.ksm", "--near", "--pieces", "--min-coverage", 0)
    assert done[0].returncode == 0


@pytest.mark.parametrize(
    ("info", "message"),
    [({"piece_bytes": 2048}, "pieces of frames"), ({"zero_piece_hash": None}, "pieces of frames")],
)
def test_pieces_that_make_no_page_are_refused(
    info: dict[str, object], message: str, tmp_path: Path
) -> None:
    snapshot = with_hashes(system(workers([1])), **pieces((1, 2, 3, 4)))
    write_snapshot(replace(snapshot, info=snapshot.info | info), tmp_path / "a.ksm")
    with pytest.raises(TargetError, match=message):
        open_snapshot(tmp_path / "a.ksm")


@pytest.mark.parametrize("option", ["--near", "--pieces"])
def test_further_hashes_need_contents(option: str, tmp_path: Path) -> None:
    done = estimator("collect", "--procfs", "--without-contents", option, "-o", tmp_path / "a.ksm")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--pieces, --near hash page contents" in done.stderr
